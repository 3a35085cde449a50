"""The web page: the only place that imports Gradio."""
