"""Dockerfile, .dockerignore and compose.yaml: strict, and in agreement with the program and with each other.

scripts/try_rootfs goes the Dockerfile's steps and runs the page in what comes out.
"""

import argparse
import importlib.util
import ipaddress
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from diffusers_helper.gradio.door.guards import MONITORING
from diffusers_helper.service.config import RuntimeConfig, names_of
from diffusers_helper.service.options import add_settings
from tests.proxy import nginx_program

ROOT = Path(__file__).parents[1]
WORKERS = ("framepack-0", "framepack-1")


@pytest.fixture(scope="module")
def dockerfile():
    spec = importlib.util.spec_from_file_location("dockerfile", ROOT / "scripts" / "dockerfile.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dockerfile"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["dockerfile"]


@pytest.fixture(scope="module")
def image(dockerfile):
    """The last stage."""
    return dockerfile.stages((ROOT / "Dockerfile").read_text("utf-8"))[-1]


class UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, where YAML takes the last in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        assert len(keys) == len(set(keys)), f"{keys} at {node.start_mark}"
        return super().construct_mapping(node, deep)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HealthCheck(Strict):
    test: list[str] = Field(min_length=2)
    interval: str = Field(pattern=r"^\d+[ms]$")
    timeout: str = Field(pattern=r"^\d+[ms]$")


class Service(Strict):
    """What is used of the Compose specification's services; anything else is a mistake until it is added here."""

    build: str | None = None
    image: str | None = None
    command: list[str] = []
    profiles: list[str] = []
    restart: Literal["on-failure"]
    read_only: Literal[True]
    tmpfs: list[str] = []
    cap_drop: list[Literal["ALL"]] = Field(min_length=1)
    cap_add: list[str] = []
    security_opt: list[Literal["no-new-privileges:true"]] = Field(min_length=1)
    stop_grace_period: str = Field("10s", pattern=r"^\d+s$")
    environment: dict[str, str] = {}
    ports: list[str] = []
    volumes: list[str] = []
    secrets: list[dict[Literal["source", "target"], str]] = []
    networks: dict[Literal["default"], dict[Literal["ipv4_address"], str]] = {}
    healthcheck: HealthCheck | None = None
    deploy: dict[str, Any] = {}


class Compose(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)  # x-...

    services: dict[str, Service]
    networks: dict[str, Any]
    secrets: dict[str, dict[Literal["file"], str]]
    volumes: dict[str, None]


@pytest.fixture(scope="module")
def compose():
    found = Compose.model_validate(yaml.load((ROOT / "compose.yaml").read_text("utf-8"), UniqueKeys))
    assert all(name.startswith("x-") for name in found.model_extra)
    return found


def with_defaults(text, **values):
    """`text` as Compose reads it: $$ is $, and a variable has its default or its value here."""
    named = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1], found[2]), text)
    assert not re.search(r"(?<!\$)(\$\$)*\$(?!\$)\w", named), f"a variable without a default: {named}"
    return named.replace("$$", "$")


def test_the_context_is_what_the_image_is_made_of_and_nothing_private(dockerfile):
    kept = {path.name for path in dockerfile.context((ROOT / ".dockerignore").read_text("utf-8"), ROOT)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {
        "setup.py",
        "pyproject.toml",
        "diffusers_helper",
        "assets",
        project["readme"],
        *project["license-files"],
    } <= kept
    assert kept <= {path.split("/")[0] for path in tracked()}


def tracked():
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_is_copied_is_in_the_context(dockerfile):
    names = {path.name for path in dockerfile.context((ROOT / ".dockerignore").read_text("utf-8"), ROOT)}
    for stage in dockerfile.stages((ROOT / "Dockerfile").read_text("utf-8")):
        for step in stage.steps:
            if step.word == "COPY" and "from" not in step.options:
                assert {name for name in step.words[:-1] if name != "."} <= names


def test_the_image_runs_a_program_of_the_wheel_as_another_user(image):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    entry = image.last("ENTRYPOINT").command
    assert entry[0] in scripts
    settings(entry[1:] + image.last("CMD").command)
    user = image.last("USER").text
    assert any(step.word == "RUN" and f"useradd --uid 10001 --create-home {user}" in step.text for step in image.steps)


def test_its_port_and_its_health_check_are_the_programs(image):
    port = RuntimeConfig.model_fields["port"].default
    assert image.last("EXPOSE").text == str(port)
    url = re.search(r"urlopen\('([^']+)'", image.last("HEALTHCHECK").command[-1])[1]
    assert url in {f"http://127.0.0.1:{port}{path}" for path in MONITORING}


def test_its_python_is_one_of_the_projects(dockerfile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    for stage in dockerfile.stages((ROOT / "Dockerfile").read_text("utf-8")):
        assert int(low) <= int(re.fullmatch(r"python:3\.(\d+)-slim", stage.base)[1]) < int(high)


def test_all_that_is_written_is_in_a_volume_that_its_user_owns(image, compose):
    made = next(step.text for step in image.steps if "install --directory" in step.text)
    user, owned = image.last("USER").text, re.search(r"install --directory (.*)$", made)[1].split()
    assert owned[:4] == ["--owner", user, "--group", user]
    written = {place for values in variables(image) for place in values.values()}
    for name in WORKERS:
        mounts = [volume.partition(":")[2] for volume in compose.services[name].volumes]
        assert set(mounts) == set(owned[4:]), "a volume at a folder that the image lacks is root's"
        assert all(any(place == mount or place.startswith(f"{mount}/") for mount in mounts) for place in written)


def variables(image):
    return [step.pairs for step in image.steps if step.word == "ENV"]


def settings(words):
    """What the page makes of options; fails where it knows one not."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for group in ("page", "access", "machine"):
        add_settings(parser, names_of(group))
    return parser.parse_args(words)


def test_every_worker_has_a_gpu_a_port_an_address_and_volumes_of_its_own(compose):
    services = [compose.services[name] for name in WORKERS]
    devices = [one.deploy["resources"]["reservations"]["devices"] for one in services]
    assert [device["device_ids"] for (device,) in devices] == [["0"], ["1"]]
    assert all(device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] for (device,) in devices)
    assert len({port for one in services for port in one.ports}) == len(services)
    own = [{volume for volume in one.volumes if not volume.startswith("models:")} for one in services]
    assert not own[0] & own[1]
    assert "two" in services[1].profiles
    assert not services[0].profiles
    port = RuntimeConfig.model_fields["port"].default
    for number, one in enumerate(services):
        assert one.ports == [f"127.0.0.1:{port + number}:{port}"]
        assert one.tmpfs == ["/tmp"]


def test_volumes_secrets_and_addresses_are_those_that_are_declared(compose):
    used = {volume.partition(":")[0] for service in compose.services.values() for volume in service.volumes}
    files = {name for name in used if name.startswith("./")}
    assert used - files == set(compose.volumes)
    assert all((ROOT / name).is_file() for name in files)
    named = {secret["source"] for service in compose.services.values() for secret in service.secrets}
    assert named == set(compose.secrets)
    (subnet,) = compose.networks["default"]["ipam"]["config"]
    addresses = [
        service.networks["default"]["ipv4_address"] for service in compose.services.values() if service.networks
    ]
    assert len(addresses) == len(set(addresses)) == 3
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network(subnet["subnet"]) for one in addresses)
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert all(secret["file"].removeprefix(".") in ignored for secret in compose.secrets.values())


def test_nothing_is_published_beyond_this_computer(compose):
    assert all(port.startswith("127.0.0.1:") for service in compose.services.values() for port in service.ports)


@pytest.mark.parametrize("number", [0, 1])
def test_workers_know_their_names_and_believe_nginx_alone(compose, number):
    words = [with_defaults(word, FRAMEPACK_NAME="example.org") for word in compose.services[WORKERS[number]].command]
    given = settings(words)
    assert given.host_name == [WORKERS[number], f"gpu{number}.example.org"]
    assert given.forwarded_allow_ips == compose.services["nginx"].networks["default"]["ipv4_address"]


def test_prometheus_asks_the_workers(compose):
    config = yaml.load((ROOT / "docs" / "deploy" / "prometheus.yml").read_text("utf-8"), UniqueKeys)
    (job,) = config["scrape_configs"]
    port = RuntimeConfig.model_fields["port"].default
    assert job["static_configs"] == [{"targets": [f"{name}:{port}" for name in WORKERS]}]
    assert "/metrics" in MONITORING


def nginx_conf(compose, folder):
    """What nginx is started with: the service's own command, but for the place of its files."""
    shell, flag, script = compose.services["nginx"].command
    script = with_defaults(script).replace("/etc/nginx/conf.d", str(folder)).split("&&")[0]
    script = script.replace("/framepack.conf;", f"{ROOT}/docs/deploy/nginx.conf;")
    name = with_defaults(compose.services["nginx"].environment["NAME"], FRAMEPACK_NAME="example.org")
    subprocess.run([shell, flag, script], env={"PATH": "/usr/bin:/bin", "NAME": name}, check=True)
    return (folder / "framepack.conf").read_text()


def test_nginx_has_a_server_for_every_worker(compose, tmp_path):
    conf = nginx_conf(compose, tmp_path)
    assert re.findall(r"^server ", conf, re.MULTILINE) == ["server "] * 2
    assert re.findall(r"server_name (.*);", conf) == ["gpu0.example.org", "gpu1.example.org"]
    port = RuntimeConfig.model_fields["port"].default
    addresses = [compose.services[name].networks["default"]["ipv4_address"] for name in WORKERS]
    found = re.findall(r"proxy_pass http://(.*);", conf)
    assert found == [f"{address}:{port}" for address in addresses for _ in ("/", "/metrics")]
    assert "7861" not in conf
    targets = {secret["target"] for secret in compose.services["nginx"].secrets}
    assert set(re.findall(r"ssl_certificate(?:_key)? (.*);", conf)) == targets


@pytest.mark.slow
def test_nginx_takes_what_it_is_given(compose, tmp_path):
    if nginx_program() is None:
        pytest.skip("there is no nginx; on Debian: sudo apt install nginx-light openssl")
    conf = nginx_conf(compose, tmp_path).replace("/etc/ssl/framepack", f"{tmp_path}/framepack")
    conf = conf.replace("listen 443", "listen 127.0.0.1:8443")
    (tmp_path / "framepack.conf").write_text(conf)
    certify = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=example.org -keyout framepack.key"
    subprocess.run([*certify.split(), "-out", "framepack.crt"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{}} http {{ access_log off; include {tmp_path}/framepack.conf; }}"
    )
    tried = subprocess.run(
        [nginx_program(), "-t", "-p", tmp_path, "-e", tmp_path / "errors", "-c", tmp_path / "nginx.conf"],
        capture_output=True,
        text=True,
    )
    assert tried.returncode == 0, tried.stderr


@pytest.mark.parametrize(
    "text",
    ["FROM a b c", "ONBUILD RUN x", "RUN x", "FROM a\nADD b c"],
    ids=["a base", "an instruction", "no base", "another"],
)
def test_what_the_trial_does_not_know_in_a_dockerfile_is_an_error(dockerfile, text):
    with pytest.raises(dockerfile.DockerfileError):
        dockerfile.stages(text)


@pytest.mark.parametrize("ignored", ["", ".venv\n", "*\nprivate", "*\n!gone"])
def test_what_the_trial_does_not_know_in_a_dockerignore_is_an_error(dockerfile, tmp_path, ignored):
    with pytest.raises(dockerfile.DockerfileError):
        dockerfile.context(ignored, tmp_path)


def test_a_dockerfiles_lines_are_joined_and_its_values_read(dockerfile):
    lines = ["# c", "FROM x:1 AS y", "RUN a \\", "  # c", "  && b", "ENV A=1 B='2 3'", "COPY --from=z /a /b"]
    lines += ["HEALTHCHECK --timeout=5s \\", ' CMD ["c"]']
    (stage,) = dockerfile.stages("\n".join(lines))
    run, env, copy, check = stage.steps
    assert (stage.base, stage.name, run.text) == ("x:1", "y", "a && b")
    assert env.pairs == {"A": "1", "B": "2 3"}
    assert (copy.options, copy.words) == ({"from": "z"}, ["/a", "/b"])
    assert check.command == ["c"]
