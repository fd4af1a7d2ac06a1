"""The container files cannot be run here, so they are read, and held against the settings and the pinned versions."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from service.local import versions
from service.settings import CONFIG_VARIABLE, Settings, load_settings

REPOSITORY = Path(__file__).resolve().parent.parent
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = COMPOSE["services"]
LOCKS = sorted(REPOSITORY.glob("requirements*.lock"))


def _variables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}".upper()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables(field.annotation, f"{prefix}{name}__")


KNOWN = {CONFIG_VARIABLE, *_variables(Settings, "TIDEWATCH_")}


def _dockerfile(instruction: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(instruction + " ")]


def _packages(lock: str) -> set[str]:
    return set(re.findall(r"^[A-Za-z0-9][^\s=]*==[^\s;]+", lock, flags=re.MULTILINE))


def _deploy_files() -> list[Path]:
    return [
        REPOSITORY / "docker-compose.yml",
        REPOSITORY / "Dockerfile",
        *(f for f in (REPOSITORY / "deploy").rglob("*") if f.is_file()),
    ]


@pytest.mark.parametrize("path", _deploy_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_variable_is_a_setting(path: Path) -> None:
    assert set(re.findall(r"TIDEWATCH_[A-Z0-9_]+", path.read_text(encoding="utf-8"))) <= KNOWN


def test_the_composed_settings_are_valid_and_meet_the_composed_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES["tidewatch"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv(CONFIG_VARIABLE, str(REPOSITORY / mounted[service["environment"][CONFIG_VARIABLE]]))
    settings = load_settings()
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INTERNAL://{settings.kafka.bootstrap_servers}" in advertised
    assert settings.elasticsearch.url == "http://elasticsearch:9200"
    assert f"127.0.0.1:8080:{settings.http.port}" in service["ports"]
    assert f":{settings.http.port}/healthz" in " ".join(service["healthcheck"]["test"])
    assert all(any(str(rule.bundle).startswith(folder + "/") for folder in mounted) for rule in settings.models)


def test_images_are_pinned_to_the_versions_that_the_tests_run_against() -> None:
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images["kafka"] == f"apache/kafka:{versions.KAFKA}"
    assert images["elasticsearch"] == f"elasticsearch:{versions.ELASTICSEARCH}"
    assert images["kibana"] == images["kibana-objects"] == f"kibana:{versions.ELASTICSEARCH}"
    bases = [default.split("=", 1)[1] for default in _dockerfile("ARG") if default.startswith("PYTHON_IMAGE=")]
    assert bases
    for image in [*images.values(), *bases]:
        assert re.search(r":\d+\.\d+\.\d+", image), image
    assert {source.split()[0] for source in _dockerfile("FROM")} == {"${PYTHON_IMAGE}"}


def test_every_lasting_service_has_a_health_check_and_every_dependency_is_awaited() -> None:
    for name, service in SERVICES.items():
        one_shot = service.get("restart") == "no"
        assert service["restart"] in ("no", "unless-stopped")
        assert service["healthcheck"].get("disable", False) is one_shot, name
        assert one_shot or service["healthcheck"]["test"][0] == "CMD"
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if SERVICES[needed].get("restart") == "no" else "service_healthy"
            assert how["condition"] == wanted, (name, needed)
    assert _dockerfile("HEALTHCHECK")


def test_nothing_is_published_beyond_the_loopback() -> None:
    for name, service in SERVICES.items():
        assert service.get("network_mode") != "host", name
        for port in service.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), (name, port)


def test_the_container_is_not_root_and_cannot_write_where_it_need_not() -> None:
    assert _dockerfile("USER")[-1] == "10001"
    for name in ("setup", "tidewatch"):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


def test_the_build_sends_only_what_it_copies() -> None:
    allowed = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    copied = {part for line in _dockerfile("COPY") if "--from" not in line for part in line.split()[:-1]}
    assert copied == allowed
    assert all((REPOSITORY / path).exists() for path in copied)


def test_volumes_and_mounts_exist() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (REPOSITORY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], volume


def test_the_small_image_leaves_out_only_torch_and_what_it_brings_for_gpus() -> None:
    lock = REPOSITORY / "requirements-runtime.lock"
    script = REPOSITORY / "deploy" / "without-gpu.awk"
    rest = subprocess.run(["awk", "-f", str(script), str(lock)], capture_output=True, text=True, check=True).stdout
    left_out = _packages(lock.read_text(encoding="utf-8")) - _packages(rest)
    names = {package.split("==")[0] for package in left_out}
    assert "torch" in names
    assert all(name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-")) for name in names)
    assert not re.search(r"^(torch|triton|nvidia|cuda)", rest, flags=re.MULTILINE)
    assert rest.count("--hash=") > 100


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_are_hashed_and_name_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|^-i ", text, flags=re.MULTILINE)
    for block in re.split(r"\n(?=\S)", text):
        if "==" in block.split("\n")[0]:
            assert "--hash=sha256:" in block, block.split("\n")[0]


def test_the_locks_agree() -> None:
    all_packages = _packages((REPOSITORY / "requirements.lock").read_text(encoding="utf-8"))
    assert {lock.name for lock in LOCKS} == {"requirements.lock", "requirements-runtime.lock", "requirements-bootstrap.lock"}
    for lock in LOCKS:
        packages = _packages(lock.read_text(encoding="utf-8"))
        assert packages
        assert packages <= all_packages, lock.name
