"""Step ``drop-layers``: removes whole decoder layers."""
