"""REINFORCE (Williams 1992): ``PolicySearch`` with one plain step of the policy gradient per rollout."""

from functools import partial

from nas.searchers.ppo import PolicySearch

Reinforce = partial(PolicySearch, algorithm="reinforce")
