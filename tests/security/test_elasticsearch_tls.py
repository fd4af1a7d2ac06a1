"""Elasticsearch behind TLS and an API key: the right ones work, every wrong one is one clear sentence and no secret."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from service.alerts.history.elasticsearch import ElasticsearchAlertStore
from service.alerts.history.reader import AlertHistory
from service.errors import ConfigError, StoreUnavailable
from service.settings import ElasticsearchSettings
from tests.alerts.makers import life
from tests.security.tls_proxy import Proxy, tls_proxy

pytestmark = pytest.mark.elasticsearch

KEY = base64.b64encode(b"tidewatch:open-sesame").decode()


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


@pytest.fixture
async def proxy(authority: trustme.CA, elasticsearch_url: str) -> AsyncIterator[Proxy]:
    async with tls_proxy(authority, elasticsearch_url, f"ApiKey {KEY}") as made:
        yield made


def settings(proxy: Proxy, folder: Path, **told: Any) -> ElasticsearchSettings:
    known = {"url": f"https://127.0.0.1:{proxy.port}", "api_key": SecretStr(KEY), "ca_file": folder / "ca.pem"}
    return ElasticsearchSettings(**{**known, "index_prefix": f"test-{uuid.uuid4().hex[:8]}", **told})


async def refused(told: ElasticsearchSettings) -> ConfigError:
    """What every use of the store ends with."""
    store = ElasticsearchAlertStore(told)
    try:
        with pytest.raises(ConfigError) as first:
            await store.install_templates()
        with pytest.raises(StoreUnavailable) as second:  # while running it may be the server's bad day: tried again
            await store.write(life())
        with pytest.raises(ConfigError) as third:
            await store.check()
    finally:
        await store.close()
    assert str(first.value) == str(third.value)
    assert str(second.value).startswith(str(first.value))
    assert KEY not in str(second.value)
    assert KEY not in f"{first.value} {first.value.hint}"
    return first.value


async def test_alerts_are_stored_and_read_back_with_the_right_key_and_authority(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    told = settings(proxy, tmp_path, api_key=None, api_key_file=tmp_path / "key")
    store, history = ElasticsearchAlertStore(told), AlertHistory(told)
    try:
        await store.install_templates()
        await store.write(life())
        await history.refresh()
        (found,) = await history.find()
        assert found["tidewatch"]["alert_id"] == life()[0].alert_id
        assert set(proxy.seen) == {f"ApiKey {KEY}"}
    finally:
        await store.close()
        await history.close()


async def test_a_name_and_password_reach_it_too(authority: trustme.CA, elasticsearch_url: str, tmp_path: Path) -> None:
    basic = "Basic " + base64.b64encode(b"tidewatch:open sesame").decode()
    async with tls_proxy(authority, elasticsearch_url, basic) as proxy:
        told = settings(proxy, tmp_path, api_key=None, username="tidewatch", password=SecretStr("open sesame"))
        store = ElasticsearchAlertStore(told)
        try:
            assert "cluster" in await store.check()
        finally:
            await store.close()


@pytest.mark.parametrize("key", [SecretStr(base64.b64encode(b"tidewatch:guess").decode()), None])
async def test_a_wrong_key_or_none_is_told(proxy: Proxy, tmp_path: Path, key: SecretStr | None) -> None:
    error = await refused(settings(proxy, tmp_path, api_key=key))
    assert "refuses these credentials" in str(error)
    assert "elasticsearch.api_key" in error.hint


async def test_the_certificate_of_a_stranger_is_refused_before_anything_is_said(proxy: Proxy, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    for ca_file in (tmp_path / "other.pem", None):  # another authority, and those that the system trusts
        error = await refused(settings(proxy, tmp_path, ca_file=ca_file))
        assert "is not trusted" in str(error)
        assert "elasticsearch.ca_file" in error.hint
    assert proxy.seen == []


async def test_a_certificate_for_another_host_is_refused(authority: trustme.CA, elasticsearch_url: str, tmp_path: Path) -> None:
    async with tls_proxy(authority, elasticsearch_url, f"ApiKey {KEY}", "elastic.example.org") as proxy:
        error = await refused(settings(proxy, tmp_path))
        assert "is not trusted" in str(error)
        assert "127.0.0.1" in str(error)
        assert proxy.seen == []


async def test_a_redirect_is_not_followed(proxy: Proxy, authority: trustme.CA, tmp_path: Path) -> None:
    async with tls_proxy(authority, proxy.upstream, f"ApiKey {KEY}") as inside:
        proxy.elsewhere = f"https://127.0.0.1:{inside.port}"
        error = await refused(settings(proxy, tmp_path))
        assert "redirects are not followed" in str(error)
        assert inside.seen == []
