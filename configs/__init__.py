"""Configs: `get_config(arg)` files that import only `common` and ml_collections."""
