"""The region "Queue", composed of its parts."""

from __future__ import annotations

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.content import Backend, ModelCard
from diffusers_helper.gradio.queue.form import JobForm
from diffusers_helper.gradio.queue.handlers import QueueHandlers
from diffusers_helper.gradio.queue.layout import PageForm, QueuePanel, connect_queue
from diffusers_helper.gradio.queue.many import ManyHandlers, connect_many


def add_queue(
    app: gr.Blocks, panel: QueuePanel, form: PageForm, model: ModelCard, backend: Backend, t: Language
) -> None:
    """Connect the strip and what queues several at once."""
    job_form = JobForm(model, backend.photos)
    handlers = QueueHandlers(backend.manager, job_form, model.estimate, t)
    connect_queue(app, panel, handlers, form)
    connect_many(panel.many, ManyHandlers(model, backend, t), form.browser.client_id, form.inputs)
