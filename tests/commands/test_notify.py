"""``tidewatch test-notify`` sends what a real message would say of the settings."""

from __future__ import annotations

from pathlib import Path

from service.commands.notify import _send_samples
from service.settings import Settings
from tests.alerts.servers import http_receiver

TEMPLATE = '{"runbook": {{ messages[0].runbook | tojson }}, "owner": {{ messages[0].owner | tojson }}}'


async def test_the_sample_has_the_runbook_and_owner_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "hook.j2").write_text(TEMPLATE)
    async with http_receiver() as server:
        hook = {"name": "hook", "type": "webhook", "url": server.url, "allow_http": True, "template": tmp_path / "hook.j2"}
        links = [{"match": {"purpose": "test"}, "runbook": "https://wiki.example/{entity}", "owner": "operations"}]
        settings = Settings.model_validate({"notifications": {"receivers": [hook], "links": links, "time_zone": "Asia/Tokyo"}})
        assert await _send_samples(settings, None)
        (request,) = server.requests
    assert request.json == {"runbook": "https://wiki.example/tidewatch-test", "owner": "operations"}
