"""Which endpoint an address names, and who may get the key: one spelling, nothing guessed, nothing quoted."""

from pathlib import Path

import pytest

from catalog.errors import EndpointRefused, InputError, StudyError
from catalog.study.file import Study
from catalog.trust.endpoints import allow_endpoint, allow_named, endpoint, permission
from catalog.trust.permissions import allow, is_allowed


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEQL_CONFIG", str(tmp_path / "config"))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com:443"),
        ("HTTPS://API.OpenAI.com.:443", "https://api.openai.com:443"),
        ("http://Localhost", "http://localhost:80"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1.evil.com/v1", "http://127.0.0.1.evil.com:80"),
        ("https://[::0001]:8443/", "https://[::1]:8443"),
        ("https://[2001:DB8::0:1]", "https://[2001:db8::1]:443"),
        ("https://xn--bcher-kva.example/v1", "https://xn--bcher-kva.example:443"),
        ("http://my_server:1/v1", "http://my_server:1"),
    ],
)
def test_an_endpoint_has_one_spelling(url: str, name: str) -> None:
    assert endpoint(url).name == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "ftp://host",
        "file:///etc/passwd",
        "//host/v1",
        "https://",
        "https:///v1",
        "https://user:pw@host/v1",
        "http://localhost@evil.com/v1",
        "http://localhost:80@evil.com/v1",
        "http://localhost%40evil.com/v1",
        "http://localhost\\@evil.com/v1",
        "http://localhost\\.evil.com/v1",
        "http://evil.com#.localhost",
        "http://evil.com?.localhost",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://0x7f.1/v1",
        "http://127.1/v1",
        "http://0177.0.0.1/v1",
        "http://127.0.0.256/v1",
        "http://\uff11\uff12\uff17.0.0.1/v1http://bücher.example/v1",
        "http://\u217cocalhost/v1",
        "http://local%68ost/v1",
        "http://host:0",
        "http://host:65536",
        "http://host:-1",
        "http://host:80:80",
        "http://host:٨٠",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://a..b/",
        "http://./",
        f"http://{'a' * 64}/",
        "http://host /v1",
        "http://host/v 1",
        "http://host\n/v1",
        "http://host/v1\r\nX-Evil: 1",
        "http://host\t.evil.com",
        "http://host\0/",
        "http://" + "a." * 2000,
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="base_url"):
        endpoint(url)


@pytest.mark.parametrize(
    "url", ["https://me:s3cret@host/v1", "ftp://me:s3cret@host", "https://s3cret@host", "s3cret@x"]
)
def test_a_password_in_an_address_is_quoted_nowhere(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        endpoint(url)
    assert "s3cret" not in str(caught.value)
    text = f'name = "s"\n[[explainer]]\nname = "a"\nprovider = "openai"\nmodel = "m"\nbase_url = "{url}"\n'
    with pytest.raises(StudyError, match=r"explainer\[0\].base_url: holds an @") as study:
        Study.parse(text, tmp_path)
    assert "s3cret" not in str(study.value)


def test_the_client_connects_to_the_host_that_was_compared() -> None:
    import httpx2

    for url in (
        "HTTPS://API.OpenAI.com.:443/v1",
        "http://127.0.0.1.evil.com/v1",
        "https://[::0001]:8443/x",
        "http://a_b",
    ):
        found = endpoint(url)
        said = httpx2.URL(found.url)
        port = said.port or {"http": 80, "https": 443}[said.scheme]
        assert (said.scheme, said.host, port) == (found.scheme, found.host.strip("[]"), found.port)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:1", True),
        ("http://0.0.0.0:1", False),
        ("http://127.evil.com", False),
        ("http://127.0.0.1.evil.com", False),
        ("http://localhost.evil.com", False),
        ("http://my.localhost", False),
        ("http://[::ffff:127.0.0.1]", False),
        ("http://[::]", False),
        ("http://128.0.0.1", False),
    ],
)
def test_only_what_is_certainly_this_machine_is_loopback(url: str, loopback: bool) -> None:
    assert endpoint(url).loopback is loopback


def test_the_environments_endpoint_and_openai_are_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert permission(None).key
    assert permission("https://api.openai.com/v1").key
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway.example:8000/v1")
    assert permission(None).endpoint.name == "http://gateway.example:8000"
    assert permission("HTTP://Gateway.example.:8000/other").key
    # The key is the gateway's now, and not for OpenAI because a catalog says so.
    with pytest.raises(EndpointRefused, match=r"api\.openai\.com"):
        permission("https://api.openai.com/v1")


@pytest.mark.parametrize(
    "other", ["https://llm.example:8443", "http://llm.example", "https://x.llm.example", "https://llm.example.evil"]
)
def test_what_is_allowed_is_one_scheme_host_and_port(other: str) -> None:
    with pytest.raises(EndpointRefused, match=r"saeql refresh --allow-endpoint https://llm.example:443"):
        permission("https://llm.example/v1")
    assert allow_endpoint("https://LLM.example/v2") == "https://llm.example:443"
    assert allow_endpoint("https://llm.example/v1") is None
    assert permission("https://llm.example:443/v1").key
    with pytest.raises(EndpointRefused):
        permission(other)


def test_loopback_gets_prompts_but_a_key_only_when_allowed() -> None:
    assert not permission("http://127.0.0.1:8000/v1").key
    allow("endpoints", "http://127.0.0.1:8000")
    assert permission("http://127.0.0.1:8000/v1").key
    assert not permission("http://127.0.0.1:8001/v1").key


def test_plain_http_is_said_to_be_readable() -> None:
    with pytest.raises(EndpointRefused, match="plain http"):
        permission("http://llm.example/v1")


def test_a_study_that_was_passed_allows_what_its_own_sections_name(tmp_path: Path) -> None:
    text = (
        'name = "s"\n[[explainer]]\nname = "a"\nprovider = "openai"\nmodel = "m"\nbase_url = "https://a.example/v1"\n'
        '[[explainer]]\nname = "idle"\nbase_url = "https://idle.example/v1"\n'
        '[[scorer]]\nname = "b"\nprovider = "openai"\nmodel = "m"\nbase_url = "https://b.example/v1"\n'
    )
    study = Study.parse(text, tmp_path)
    assert not is_allowed("endpoints", "https://a.example:443")
    assert allow_named(study) == ["https://a.example:443", "https://b.example:443"]
    assert allow_named(study) == []
    assert not is_allowed("endpoints", "https://idle.example:443")
