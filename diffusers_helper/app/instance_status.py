"""What an instance of the page is doing, in one line."""

from __future__ import annotations

from diffusers_helper.app.supervisor import InstanceConfig, State, ask
from diffusers_helper.core.files import parsed_json


def describe(port: int, plan: InstanceConfig | None, state: State) -> str:
    """Return what there is to say of the instance of `port`, which runs."""
    words = [f"GPU {plan.gpu}"] if plan and plan.gpu else []
    words.append(f"{state.phase} ({state.why})" if state.phase == "waiting" else _health(plan, state))
    words.append(f"process {state.program or state.supervisor}" + ("" if state.kept else ", and nothing restarts it"))
    if state.restarts:
        words.append(f"restarts: {state.restarts}, the last time it {state.why}")
    return f"Port {port}: {', '.join(words)}"


def _health(plan: InstanceConfig | None, state: State) -> str:
    """Return what the instance says of itself."""
    answer = ask(plan.address, plan.port, "/healthz") if plan else None
    if answer is None:
        return "does not answer" if state.phase == "up" else state.phase
    try:
        health = parsed_json(answer[1])
        job = health["job"]
        words = [str(health["state"])]
        if job:
            words.append(f"job {job['name']}: section {job['section']} of {job['sections']}, step {job['step']}")
        if health["waiting"]:
            words.append(f"{health['waiting']} waiting")
    except (ValueError, KeyError, TypeError):
        return "running"
    return ", ".join(words)
