"""The packed HunyuanVideo transformer and its layers."""
