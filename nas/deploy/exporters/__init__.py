"""One exporter per file (see ``nas.deploy.exporter``)."""
