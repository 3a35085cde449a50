"""`demo_gradio.py` and `demo_gradio_f1.py`: arguments, environment, port, models, page; in this order.

What can be wrong is found before what takes long: a port that is taken ends the program before torch or Gradio are
imported. Exit codes: those of `options.py`; one that was stopped is done.
"""

from __future__ import annotations

import argparse
import errno
import gc
import logging
import os
import socket
from collections.abc import Sequence

from diffusers_helper.app.opening import OpenProgram, open_program
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import LANGUAGES, Message
from diffusers_helper.core.variants import Variant
from diffusers_helper.jobs.queue import JOBS_PER_OWNER
from diffusers_helper.service import options
from diffusers_helper.service.access import Access, access_from
from diffusers_helper.service.config import RuntimeConfig, names_of
from diffusers_helper.service.console import tolerant_output
from diffusers_helper.service.logs import logging_to
from diffusers_helper.service.open_files import allow_open_files
from diffusers_helper.service.packages import importing
from diffusers_helper.service.places import file_permissions, require_writable
from diffusers_helper.service.processes import end_like_ctrl_c
from diffusers_helper.service.proxies import require_proxies
from diffusers_helper.service.versions import require_versions

logger = logging.getLogger(__name__)

JOBS_PER_STRANGER = 10
"""How many jobs one network address may have waiting where everybody may use a server."""


def main(variant: Variant, argv: Sequence[str] | None = None, program: OpenProgram = open_program) -> int:
    """Serve the page of `variant`, on what `program` opens, until a signal; return the exit code."""
    tolerant_output()
    code = options.ending(lambda: _main(variant, argv, program))
    return options.DONE if code == options.INTERRUPTED else code


def _main(variant: Variant, argv: Sequence[str] | None, program: OpenProgram) -> int:
    config = options.config_of(_parser(variant).parse_args(argv))
    options.set_environment(config.folders, offline=config.offline)
    end_like_ctrl_c()
    with file_permissions(shared=config.shared_files):
        return options.ending(lambda: _with_port(variant, config, program), config.language)


def open_port(server: str, port: int) -> socket.socket:
    """Take `port` of the address `server` now, so that nobody else gets it while the models load.

    Raises SettingsError if it cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(server.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                Message(
                    "Port {port} is taken, maybe by another FramePack. Choose another one: --port {other}",
                    port=port,
                    other=port % 65535 + 1,
                )
            ) from None
        raise SettingsError(
            Message(
                "The page cannot be served at {server} port {port}: {reason}.",
                server=server,
                port=port,
                reason=error.strerror,
            )
        ) from None


def _with_port(variant: Variant, config: RuntimeConfig, program: OpenProgram) -> int:
    with open_port(config.server, config.port) as listener:
        host, port = listener.getsockname()[:2]
        access = access_from(config, host)
        with logging_to(config.folders.logs / str(port), config.log_level or "info"):
            return options.ending(lambda: _run(variant, config, listener, access, program), config.language)


def _run(
    variant: Variant, config: RuntimeConfig, listener: socket.socket, access: Access, open_one: OpenProgram
) -> int:
    require_versions()
    require_proxies()
    allow_open_files()

    with importing():
        from diffusers_helper.app.device import sole_process

    program = open_one(config, variant.name)
    port = listener.getsockname()[1]
    uploads = config.folders.uploads / str(port)
    require_writable(uploads, "--data DIR")
    with sole_process(program.device, program.outputs, port):
        os.environ.setdefault("GRADIO_TEMP_DIR", str(uploads))
        with importing():
            from diffusers_helper.gradio.app import build_pages
            from diffusers_helper.gradio.content import ModelCard, ProgramStatus
            from diffusers_helper.gradio.door.endpoints import Monitor, routes
            from diffusers_helper.gradio.door.server import JOB_SECONDS, Site, serve
            from diffusers_helper.history.library import History
            from diffusers_helper.media.wildcards import WildcardFolder
            from diffusers_helper.presets.along import come_along
            from diffusers_helper.presets.store import PresetFolders
            from diffusers_helper.service.system_monitor import SystemMonitor
            from diffusers_helper.service.watchdog import Watchdog

        if config.allow_anonymous and not access.accounts:
            logger.warning("Everybody who reaches %s can use this page; there is no password", config.server)
        shared = config.auth or config.allow_anonymous
        manager = program.make_manager(
            preload=config.preload,
            by_user=access.accounts is not None,
            apart=bool(shared or config.share or access.host_names or access.root_path),
            max_per_owner=JOBS_PER_STRANGER if config.allow_anonymous and not access.accounts else JOBS_PER_OWNER,
        )
        history = History(program.store, manager)
        monitor = Monitor(manager, program.about(port), SystemMonitor(program.outputs, program.gpus), program.loaded)
        pages = build_pages(
            [config.language] if config.language else LANGUAGES,
            ModelCard(
                program.defaults,
                program.note,
                program.source.is_tiny,
                program.times.estimate,
                start_from=config.start_from or "",
                loras=program.loras,
                wildcards=WildcardFolder(config.folders.wildcards),
                presets=PresetFolders(config.folders.presets, come_along(program.defaults)),
            ),
            manager,
            program.outputs,
            ProgramStatus(monitor.computer, program.preload, program.store.quarantine.listed),
            history,
        )
        site = Site(pages, manager, access, program.outputs, routes(monitor), history)
        watchdog = Watchdog(manager)
        watchdog.start()
        history.start()
        code = options.DONE
        try:
            stopped = serve(site, listener, inbrowser=config.inbrowser and not config.share)
        except Exception:
            if stopped := manager.close(JOB_SECONDS):
                raise
            logger.exception("The page cannot be served any longer")
            code = options.FAILED
        finally:
            watchdog.stop()
            history.close()
    if not stopped:
        # The worker is inside a call that nothing interrupts, and Python would wait for the device's threads.
        logger.warning("The job did not stop in time; what it had finished is kept")
        logging.shutdown()
        os._exit(code)
    gc.freeze()  # looking for garbage among all that torch made would take the end of the process seconds
    return code


def _parser(variant: Variant) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"{variant.title}: a photo and a prompt become a video, in a web page."
    )
    options.add_settings(parser, names_of("page"))
    options.add_settings(parser.add_argument_group("access"), names_of("access"))
    options.add_options(parser)
    return parser
