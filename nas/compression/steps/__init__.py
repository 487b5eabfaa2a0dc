"""One compression step per file (see ``nas.compression.step``)."""
