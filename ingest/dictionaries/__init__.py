"""From [[sae]] sections to SAEs in the catalog."""
