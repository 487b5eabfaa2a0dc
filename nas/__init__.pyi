# The public names, each once: lazy_loader reads this file, and so do type checkers and editors.
from . import layouts as layouts, runtimes as runtimes
from .compression.pipeline import compress as compress
from .compression.step import Context as Context, Step as Step
from .compression.steps.fine_tune import FineTune as FineTune
from .compression.steps.prune import Prune as Prune
from .compression.steps.quantize import Quantize as Quantize
from .data.datasets import load_dataset as load_dataset
from .data.images import ImageData as ImageData, load_digits as load_digits, load_images as load_images
from .data.splits import Split as Split
from .deploy.bundle import export_bundle as export_bundle
from .deploy.exporter import Exporter as Exporter
from .deploy.to_litert import export_litert as export_litert
from .deploy.to_onnx import export_onnx as export_onnx, export_onnx_int8 as export_onnx_int8
from .device import Device as Device
from .engine.loop import search as search
from .engine.optuna_study import to_optuna as to_optuna
from .engine.predicted import predicted as predicted
from .engine.result import SearchResult as SearchResult
from .errors import BadInput as BadInput, Infeasible as Infeasible, MissingBlocks as MissingBlocks, NasError as NasError
from .layouts.pretrained import pretrained as pretrained
from .measuring.campaign import measure as measure
from .modules import Network as Network
from .objectives.accuracy import accuracy as accuracy
from .objectives.combine import penalized as penalized, weighted as weighted
from .objectives.memory import flash_size as flash_size, peak_sram as peak_sram
from .objectives.networks import of_networks as of_networks
from .objectives.objective import (
    Constraint as Constraint,
    Objective as Objective,
    energy as energy,
    flash as flash,
    latency as latency,
    macs as macs,
    params as params,
    peak_memory as peak_memory,
)
from .objectives.tabular import TabularBenchmark as TabularBenchmark
from .report.page import write_report as write_report
from .runs.folder import Run as Run
from .runs.settings import Settings as Settings
from .runs.stages import run as run
from .runtimes.runtime import Runtime as Runtime
from .searchers.evolution import RegularizedEvolution as RegularizedEvolution
from .searchers.exact import exact_best as exact_best, exact_front as exact_front, largest_within as largest_within
from .searchers.guided import Guided as Guided
from .searchers.local_search import LocalSearch as LocalSearch
from .searchers.nsga2 import NSGA2 as NSGA2
from .searchers.nsga3 import NSGA3 as NSGA3
from .searchers.optuna_tpe import OptunaSearch as OptunaSearch
from .searchers.ppo import PolicySearch as PolicySearch
from .searchers.random import RandomSearch as RandomSearch
from .searchers.searcher import Searcher as Searcher
from .space import Choice as Choice, SearchSpace as SearchSpace, Slot as Slot
from .space_around import around as around
from .supernet.strategies import Sandwich as Sandwich, SinglePath as SinglePath, Strategy as Strategy
from .supernet.supernet import Supernet as Supernet
from .supernet.training import (
    calibrated as calibrated,
    load_supernet as load_supernet,
    train_supernet as train_supernet,
)
from .sweeps.sweep import sweep as sweep
from .tables.interpolate import estimate as estimate
from .tables.table import LatencyTable as LatencyTable
from .training.augment import Augment as Augment
from .training.evaluate import balanced_accuracy as balanced_accuracy
from .training.network import train_network as train_network
from .training.recipe import Recipe as Recipe

__version__: str
