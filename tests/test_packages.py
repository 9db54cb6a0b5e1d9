"""Packages: which of their files are documentation, and archives that are damaged or hostile. Two real ones, online."""

import io
import json
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from selfedit.documents import worker
from selfedit.documents.package import documents_in, is_documentation, read_package
from selfedit.documents.read import Intake, read_documents
from selfedit.errors import DocumentError


def sdist(files: dict[str, str | bytes], *, links: dict[str, str] | None = None, top: str = "gate-1.0/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            data, member = content.encode() if isinstance(content, str) else content, tarfile.TarInfo(top + name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(top + name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def wheel(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


METADATA = (
    "Metadata-Version: 2.1\nName: gate\nVersion: 1.0\nDescription-Content-Type: text/markdown; charset=UTF-8\n\n"
    "# Gate\n\nThe gate is réd.\n"
)


DOCUMENTATION = """README README.md CHANGES.rst CHANGELOG.md HISTORY.txt NEWS release-notes.md docs/a.md x/docs/b/c.rst
UPGRADING.md""".split()
OTHER = """setup.py src/readme_tool.py docs/conf.py docs/_build/a.html docs/.hidden.md docs/requirements.txt LICENSE
notes.md docs/a.png tests/guide.md""".split()


def test_documentation_is_known_by_its_name():
    assert list(filter(is_documentation, DOCUMENTATION + OTHER)) == DOCUMENTATION


def test_a_source_archive_gives_its_documents_in_order_and_counts_the_rest():
    files = {"setup.py": "x", "README.md": "# Gate", "docs/a.md": "A", "CHANGES.md": "C", "PKG-INFO": METADATA}
    data = sdist(files, links={"docs/passwd.md": "/etc/passwd"})
    documents, left_out = documents_in("package:gate@1.0", "gate-1.0.tar.gz", data, is_documentation)
    assert [(raw.source, raw.name, raw.data) for raw in documents] == [
        ("package:gate@1.0/CHANGES.md", "CHANGES.md", b"C"),
        ("package:gate@1.0/README.md", "README.md", b"# Gate"),
        ("package:gate@1.0/docs/a.md", "a.md", b"A"),
    ]
    assert left_out == 2


def test_the_description_of_a_wheel_is_its_readme():
    data = wheel({"gate/__init__.py": "", "gate-1.0.dist-info/METADATA": METADATA})
    (raw,), left_out = documents_in("package:gate@1.0", "gate-1.0-py3-none-any.whl", data, is_documentation)
    assert (raw.source, raw.name) == ("package:gate@1.0/README.md", "README.md")
    assert raw.data.decode() == "# Gate\n\nThe gate is réd.\n" and left_out == 2


@pytest.mark.parametrize(
    ("file", "data", "reason"),
    [
        ("a.tar.gz", sdist({"README.md": "text"})[:-40], "damaged archive"),
        ("a.tar.gz", b"no archive", "damaged archive"),
        ("a.whl", b"PK\3\4 no archive", "damaged archive"),
        ("a.whl", wheel({"README.md": "text " * 1000}).replace(b"README.md", b"README.mx", 1), "damaged archive"),
        ("a.tar.gz", sdist({f"docs/{i}.md": "x" for i in range(600)}), "more than 500 documents"),
        ("a.tar.gz", sdist({f"docs/{i}.md": bytes(20_000_000) for i in range(3)}), "more than 500 documents or 50 MB"),
    ],
    ids=["cut off", "no gzip", "no zip", "names that differ", "many files", "large files"],
)
def test_a_damaged_or_huge_archive_is_one_line(file, data, reason):
    with pytest.raises(DocumentError, match=reason) as caught:
        documents_in("package:a@1", file, data, is_documentation)
    assert "\n" not in str(caught.value)


def test_names_that_lead_outside_are_only_names():
    files = {"../../etc/docs/x.md": "text", "/docs/y.md": "text"}
    documents, _ = documents_in("package:a@1", "a.tar.gz", sdist(files, top="a-1/"), is_documentation)
    assert all(raw.source.startswith("package:a@1/") for raw in documents)


@pytest.mark.parametrize(
    "spec", ["package:", "package:!", "package:a/b", "package:npm/", "package:a@1;2", "package:a b", "package:@x/y"]
)
def test_what_is_no_name_of_a_package_is_refused(spec):
    with pytest.raises(DocumentError, match="not a package"):
        read_package(spec, seconds=1)


class Index(BaseHTTPRequestHandler):
    """A small index of packages; `pages`: path → (content type, body)."""

    pages: dict[str, tuple[str, bytes]] = {}

    def do_GET(self):
        kind, body = self.pages.get(self.path.replace("%2F", "/"), ("", None))
        self.send_response(404 if body is None else 200)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def index(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("PIP_INDEX_URL", f"{site}/simple")
        monkeypatch.setenv("npm_config_registry", site)
        worker.worker.stop()  # the child has the environment of its start
        Index.pages = {}
        yield site
        server.shutdown()
        thread.join()
    worker.worker.stop()


def texts(spec: str, **options) -> dict[str, str]:
    texts: dict[str, str] = {}
    for passage in read_documents([spec], intake=Intake(**options)).passages:
        texts[passage.source] = f"{texts.get(passage.source, '')}\n{passage.text}".strip()
    return texts


def refusal(spec: str) -> str:
    with pytest.raises(DocumentError) as caught:
        read_documents([spec])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_package_is_read_from_the_index_of_pip_the_newest_stable_version_by_default(index):
    """Versions, in HTML as in JSON; a source archive rather than a wheel; withdrawn versions only by their number."""
    for version in ("0.9", "1.0", "1.1", "2.0rc1"):
        Index.pages[f"/f/gate-{version}.tar.gz"] = ("", sdist({"README.md": f"Gate {version}."}))
    Index.pages["/f/gate-1.0-py3-none-any.whl"] = ("", wheel({"README.md": "Wheel."}))
    names = [
        "gate-0.9.tar.gz",
        "gate-1.0-py3-none-any.whl",
        "gate-1.0.tar.gz",
        "gate-1.1.tar.gz",
        "gate-2.0rc1.tar.gz",
        "gate-1.0.exe",
    ]
    listed = [{"filename": name, "url": f"/f/{name}", "hashes": {}, "yanked": "1.1" in name} for name in names]
    links = "".join(f'<a href="/f/{name}" {"data-yanked" * ("1.1" in name)}>{name}</a>' for name in names)
    for page in (("application/json", json.dumps({"files": listed}).encode()), ("text/html", links.encode())):
        Index.pages["/simple/gate/"] = page
        assert texts("package:Gate") == {"package:Gate@1.0/README.md": "Gate 1.0."}
        assert texts("package:gate@1.1.0") == {"package:gate@1.1/README.md": "Gate 1.1."}
        assert texts("package:gate@2.0rc1") == {"package:gate@2.0rc1/README.md": "Gate 2.0rc1."}
        assert "has no such version of the package; the newest are 1.0, 0.9" in refusal("package:gate@3")


def test_a_package_that_does_not_exist_is_named_with_its_index(index):
    for spec, name in (("gone", "gone"), ("gone@1.0", "gone"), ("npm/gone", "gone"), ("npm/@x/gone", "@x/gone")):
        assert re.fullmatch(
            rf"package:{spec}: http://\S+ has no package '{name}'; check the name", refusal(f"package:{spec}")
        )
    assert "has no version 9.9 of the package 'gone'" in refusal("package:npm/gone@9.9")
    Index.pages["/simple/empty/"] = ("text/html", b"")
    assert "has no such version of the package; it has no files to read" in refusal("package:empty")


def test_a_wrong_checksum_is_refused_and_include_reads_more(index):
    data = sdist({"README.md": "Gate.", "src/notes.md": "Notes.", "setup.py": ""})
    Index.pages["/f/gate-1.tar.gz"] = ("", data)
    entry = {"filename": "gate-1.tar.gz", "url": "/f/gate-1.tar.gz", "hashes": {"sha256": "0" * 64}}
    Index.pages["/simple/gate/"] = ("application/json", json.dumps({"files": [entry]}).encode())
    assert "the checksum of gate-1.tar.gz is wrong" in refusal("package:gate")
    entry["hashes"] = {}
    Index.pages["/simple/gate/"] = ("application/json", json.dumps({"files": [entry]}).encode())
    assert list(texts("package:gate", include=["src/*.md"]).values()) == ["Gate.", "Notes."]
    (left_out,) = read_documents(["package:gate"]).skipped
    assert left_out == ("package:gate@1", "2 files that are no documentation")


def test_a_package_of_npm_is_read_with_its_checksum(index):
    import base64
    import hashlib

    data = sdist({"README.md": "Gate.", "index.js": "x"}, top="package/")
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode()
    record = {"version": "4.0.1", "dist": {"tarball": f"{index}/gate.tgz", "integrity": f"sha512-{digest}"}}
    Index.pages["/gate.tgz"] = ("", data)
    for path in ("/gate/latest", "/gate/4", "/@a/gate/latest"):
        Index.pages[path] = ("application/json", json.dumps(record).encode())
    assert texts("package:npm/gate") == {"package:npm/gate@4.0.1/README.md": "Gate."}
    assert texts("package:npm/gate@4") == {"package:npm/gate@4.0.1/README.md": "Gate."}
    assert texts("package:npm/@a/gate") == {"package:npm/@a/gate@4.0.1/README.md": "Gate."}
    for damage in ({"dist": {}}, {"dist": None}, []):
        Index.pages["/gate/latest"] = ("", json.dumps(damage).encode())
        assert "names no archive" in refusal("package:npm/gate")
    Index.pages["/gate/latest"] = ("", b"no JSON")
    assert "package:npm/gate" in refusal("package:npm/gate")


NETWORK = re.compile(
    "takes more than|cannot be fetched|the server answered|redirects|private or reserved network|has no package|"
    "has no version|has no such version|names no archive"
)
"""What is said where there is no network, or where something else answers in the place of the registry."""


@pytest.mark.parametrize(
    ("spec", "url", "text"),
    [
        ("package:polars@2.1", "https://pypi.org/simple/", "DataFrame"),
        ("package:npm/lodash@4.17.21", "https://registry.npmjs.org/", "lodash"),
    ],
)
def test_a_published_package_is_read(spec, url, text):
    worker.worker.stop()
    try:
        httpx.head(url, timeout=10)
        found = texts(spec)
    except (httpx.HTTPError, DocumentError) as error:
        if isinstance(error, DocumentError) and not NETWORK.search(str(error)):
            raise
        pytest.skip(f"{url} gives no package here: {error}")
    assert text in " ".join(found.values())
