"""Web addresses: what is fetched, where a connection may go, and what is recorded. A real server, real sockets."""

import gzip
import socket
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from document_files import pdf_with_text

from selfedit.documents import fetch, worker
from selfedit.documents.fetch import public_url
from selfedit.documents.read import Intake, read_documents
from selfedit.errors import DocumentError

PAGES = {
    "/page": ("text/html; charset=utf-8", "<title>Página</title><p>Text of the page.</p>".encode()),
    "/user-guide.txt": ("text/plain; charset=iso-8859-1", "café".encode("latin-1")),
    "/paper": ("application/pdf", pdf_with_text("Lobsters are blue.")),
    "/picture": ("image/png", b"\x89PNG\r\n\0\0\0\r"),
    "/large": ("text/plain", b"many words " * 10_000),
    "/trickle": ("text/plain", b"0123456789" * 10),
}


def gzipped(times: int) -> bytes:
    data = bytes(4_000_000)
    for _ in range(times):
        data = gzip.compress(data)
    return data


ENCODED = {
    "/gzip": ("gzip", gzip.compress(b"Zipped text.")),
    "/bomb": ("gzip", gzip.compress(bytes(30_000_000))),
    "/thrice": ("gzip, gzip, gzip", gzipped(3)),
    "/cut": ("gzip", gzip.compress(b"Zipped text.")[:-9]),
    "/deflate": ("deflate", zlib.compress(b"Zipped text.")),
}


class Pages(BaseHTTPRequestHandler):
    requests: list[tuple[str, dict]] = []

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.requests.append((self.path, dict(self.headers)))
        if path.startswith("/to/"):
            self.reply(302, {"location": self.path.removeprefix("/to/").replace("PORT", str(self.server.server_port))})
        elif path == "/loop":
            self.reply(302, {"location": "/loop"})
        elif path == "/silent":
            time.sleep(10)
        elif path == "/headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for i in range(100):
                time.sleep(0.1)
                self.wfile.write(b"x-%d: y\r\n" % i)
        elif path in ENCODED:
            encoding, body = ENCODED[path]
            self.reply(200, {"content-type": "text/plain", "content-encoding": encoding}, body)
        elif path in PAGES:
            kind, body = PAGES[path]
            self.reply(200, {"content-type": kind}, b"" if path == "/trickle" else body)
            for byte in body if path == "/trickle" else b"":
                time.sleep(0.1)
                self.wfile.write(bytes([byte]))
        else:
            self.reply(404, {})

    def reply(self, code: int, headers: dict, body: bytes = b""):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that hangs up, as it does on too much or too slow an answer, is no error."""


@pytest.fixture(scope="module")
def site():
    with Server(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module", autouse=True)
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        worker.worker.stop()  # the child has the environment of its start
        yield
    worker.worker.stop()


@pytest.fixture(autouse=True)
def no_requests():
    Pages.requests.clear()


def read(url: str, **options):
    (passage,) = read_documents([url], intake=Intake(**{"allow_private": True} | options)).passages
    return passage


def refusal(url: str, **options) -> str:
    with pytest.raises(DocumentError) as caught:
        read(url, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    return message


def test_a_page_is_fetched_through_a_redirect(site):
    passage = read(f"{site}/to//page")
    assert (passage.title, passage.text, passage.source) == ("Página", "Text of the page.", f"{site}/to//page")


def test_a_text_from_the_web_is_decoded_as_the_server_says_and_titled_by_its_address(site):
    passage = read(f"{site}/user-guide.txt")
    assert (passage.title, passage.text) == ("user guide", "café")


def test_a_pdf_is_fetched(site):
    assert read(f"{site}/paper").text == "Lobsters are blue."


def test_a_zipped_page_is_unzipped_once_and_to_a_limit(site):
    assert read(f"{site}/gzip").text == "Zipped text."
    assert "over the limit of 20 MB when unzipped" in refusal(f"{site}/bomb")
    assert "'gzip, gzip, gzip' in place of gzip; save it" in refusal(f"{site}/thrice")
    assert "'deflate' in place of gzip; save it" in refusal(f"{site}/deflate")
    assert "not a complete gzip file" in refusal(f"{site}/cut")


def test_what_the_server_does_not_give_is_refused(site):
    assert "the server answered 404" in refusal(f"{site}/gone")
    assert "a binary file (it has NUL bytes)" in refusal(f"{site}/picture")
    assert "over the limit of 0.01 MB" in refusal(f"{site}/large", max_bytes=10_000)
    assert "more than 10 redirects" in refusal(f"{site}/loop")


@pytest.mark.parametrize("target", ["ftp://elsewhere.org/x", "http://[::1/x", "https://user:pa55@/x"])
def test_a_bad_redirect_is_an_error_of_the_address_that_the_user_gave(site, target):
    message = refusal(f"{site}/to/{target}")
    assert (
        message.startswith(f"{site}/to/") and "cannot be fetched" in message and "pa55" not in message.split(": ")[-1]
    )


@pytest.mark.parametrize("page", ["silent", "trickle", "headers"])
def test_a_slow_server_is_given_up_on(site, page):
    read(f"{site}/gzip")  # starts the child
    started = time.monotonic()
    assert "takes more than 0.4 s" in refusal(f"{site}/{page}", timeout_s=0.4)
    assert time.monotonic() - started < 8  # the server takes 10 s
    assert read(f"{site}/gzip").text == "Zipped text."


def test_a_server_that_does_not_answer_is_refused():
    with socket.socket() as taken:  # no other process can listen there
        taken.bind(("127.0.0.1", 0))
        assert "cannot be fetched" in refusal(f"http://127.0.0.1:{taken.getsockname()[1]}/")


STRANGE = [
    "http://",
    "http://[::1",
    "http://[",
    "https://a b/",
    "http://127.0.0.1:99999999/",
    "http://127.0.0.1:-1/",
    "http://127.0.0.1:x/",
    "http://a..b/",
    "http://.a/",
    f"http://{'a' * 300}/",
    f"http://{'a.' * 300}com/",
    "http://xn--/",
    "http://xn--a/",
    "http://\u2024\u2024/",
    "http://é\u200d/",
    "http://-a.invalid/",
    "http://a\0b/",
    "http://%00/",
    "http://user:secret@[/",
    "http://user:secret@a..b/?token=secret",
]


@pytest.mark.parametrize("url", STRANGE)
def test_an_impossible_address_is_one_line_without_its_password(url):
    message = refusal(url)
    assert "cannot be fetched" in message and "secret" not in message


# Where a connection may go

PRIVATE = [
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f.0.0.1/", "http://localhost/", "http://0.0.0.0/",
    "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://[fe80::1]/", "http://[fd00::1]/", "http://10.1.2.3/", "http://172.16.0.1/", "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data", "http://100.64.0.1/", "http://224.0.0.1/", "http://240.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_address_is_refused_unless_it_is_allowed(url):
    message = refusal(url, allow_private=False)
    assert "is in a private or reserved network; give --allow-private" in message


def test_a_redirect_to_a_private_address_is_refused(site, monkeypatch):
    """The first address is taken for a public one; what it redirects to is checked."""
    monkeypatch.setattr(fetch, "_is_private", lambda ip: ip != "127.0.0.1")
    fetched = fetch.fetch(f"{site}/to//page", max_bytes=1000, seconds=5)
    assert fetched.data == PAGES["/page"][1]
    for target in ("http://127.0.0.2:PORT/page", "http://[::1]:PORT/page", "//127.0.0.2:PORT/page"):
        with pytest.raises(DocumentError, match="private or reserved network"):
            fetch.fetch(f"{site}/to/{target}", max_bytes=1000, seconds=5)
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/", "http://[", "http://a..b/"):
        with pytest.raises(DocumentError, match="cannot be fetched"):
            fetch.fetch(f"{site}/to/{target}", max_bytes=1000, seconds=5)


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(site, monkeypatch):
    """A name that has a public address when it is checked, and a private one afterwards."""
    answers = iter(["127.0.0.1", "127.0.0.9"])
    resolve = socket.getaddrinfo

    def rebound(host, port, *rest, **options):
        if host == "rebinding.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]
        return resolve(host, port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    monkeypatch.setattr(fetch, "_is_private", lambda ip: ip != "127.0.0.1")
    port = site.rpartition(":")[2]
    fetched = fetch.fetch(f"http://rebinding.example:{port}/gzip", max_bytes=1000, seconds=5)
    assert fetched.data == b"Zipped text." and next(answers) == "127.0.0.9"
    assert Pages.requests[0][1]["Host"] == f"rebinding.example:{port}"


def test_one_private_address_of_several_is_enough_to_refuse(monkeypatch):
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *rest, **options: both)
    with pytest.raises(DocumentError, match="two.example has the address 10.0.0.1, which is in a private"):
        fetch.fetch("http://two.example/", max_bytes=1000, seconds=5)


@pytest.fixture
def proxy(site, monkeypatch):
    monkeypatch.setenv("http_proxy", site)
    worker.worker.stop()
    yield
    worker.worker.stop()


def test_a_proxy_of_the_environment_is_used(proxy):
    PAGES["http://proxied.invalid/page"] = PAGES["/page"]
    assert read("http://proxied.invalid/page", allow_private=False).text == "Text of the page."
    assert [path for path, _ in Pages.requests] == ["http://proxied.invalid/page"]
    assert "private or reserved network" in refusal("http://10.0.0.1/", allow_private=False)


# What is recorded


def test_passwords_and_tokens_are_sent_and_not_recorded(site):
    address = site.replace("//", "//user:secret@")
    passage = read(f"{address}/page?lang=en&access_token=secret&X-Amz-Signature=secret&page=2#secret")
    assert passage.source == f"{site}/page?lang=en&page=2"
    ((path, headers),) = Pages.requests
    assert "access_token=secret" in path and headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
    assert "secret" not in refusal(f"{address}/gone?apikey=secret")


@pytest.mark.parametrize("name", ["authorization", "accesskeyid", "bearer", "otp", "sas", "tok", "sessionid"])
def test_a_parameter_with_the_name_of_a_secret_is_not_recorded(name):
    assert public_url(f"https://example.org/a?q=1&{name}=x") == "https://example.org/a?q=1"


SECRET_NAMES = """
    auth auth_code authCode authtoken oauth2 oauth_token x-auth-token authenticity_token authentication code Code
    key apikey api_key api-key api.key apiKey APIKey APIkey x-api-key userkey subscription-key
    Ocp-Apim-Subscription-Key AWSAccessKeyId awsaccesskeyid accessKey access_key secretkey secret client_secret
    clientSecret clientsecret token access_token accessToken accesstoken tokenid token2 githubtoken GitHubToken
    id_token csrfmiddlewaretoken __RequestVerificationToken X-Amz-Credential X-Amz-Security-Token X-Amz-Signature
    x-goog-signature signature sig Key-Pair-Id password passwd userPassword passwordhash pwd pass PHPSESSID
    jsessionid JSESSIONID session session_id sessionId ASP.NET_SessionId ASPSESSIONIDQQABCD sessionkey sid jwt pin
    credentials
""".split()


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_every_usual_spelling_of_a_secret_is_removed(name):
    assert public_url(f"https://example.org/a;{name}=x?q=1&{name}=x") == "https://example.org/a?q=1"


@pytest.mark.parametrize(
    "name",
    "author author_id authorName authority authoritative tokenizer tokenize monkey turkey keyboard keyword secretary "
    "obsession possession compass spin zipcode design inside".split(),
)
def test_a_word_that_only_contains_the_name_of_a_secret_is_recorded(name):
    url = f"https://example.org/a;{name}=ada?{name}=ada"
    assert public_url(url) == url


def test_pages_that_differ_in_a_word_like_a_secret_are_read_both(site):
    urls = [f"{site}/page?author={name}" for name in ("ada", "bob")]
    reading = read_documents(urls, intake=Intake(allow_private=True))
    assert [passage.source for passage in reading.passages] == urls and reading.skipped == []


def test_a_page_whose_address_differs_in_a_secret_only_is_left_out_with_a_reason(site):
    urls = [f"{site}/page?key=S3CRET1", f"{site}/page?key=S3CRET1#part", f"{site}/page?key=S3CRET2"]
    reading = read_documents(urls, intake=Intake(allow_private=True))
    assert [passage.source for passage in reading.passages] == [f"{site}/page"]
    ((source, reason),) = reading.skipped
    assert source == f"{site}/page" and "another page was read under this address" in reason and "S3CRET" not in reason


@pytest.mark.parametrize(
    "path", ["/a;jsessionid=5F", "/a;JSESSIONID=5F;x=1", "/a%3Bjsessionid%3D5F/b", "/a;token=x/b;v=1.2"]
)
def test_a_parameter_of_the_path_with_the_name_of_a_secret_is_not_recorded(path):
    kept = {"/a%3Bjsessionid%3D5F/b": "/a/b", "/a;token=x/b;v=1.2": "/a/b;v=1.2", "/a;JSESSIONID=5F;x=1": "/a;x=1"}
    for query in ("", "?q=1;r=2"):
        assert public_url(f"https://example.org{path}{query}") == f"https://example.org{kept.get(path, '/a')}{query}"


@pytest.mark.parametrize(
    "url",
    [
        " http://alice:S3CRET@host.invalid/ok",
        "ftp://alice:S3CRET@host/ok",
        "http:/alice:S3CRET@host/ok",
        "http://alice:S3CRET/1@host/ok",
        "http://alice:S3CRET#1@host/ok",
        "http://alice:S3CRET?1@host/ok",
    ],
)
def test_no_piece_of_a_password_is_in_a_message(url):
    with pytest.raises(DocumentError) as raised:
        read_documents([url])
    assert "S3CRET" not in str(raised.value)


def test_a_password_is_not_sent_to_another_host(site):
    read(f"{site.replace('//', '//user:secret@')}/to/http://localhost:PORT/page")
    assert "Authorization" in Pages.requests[0][1] and "Authorization" not in Pages.requests[1][1]


def test_an_address_without_secrets_is_recorded_as_it_is():
    for url in (
        "https://example.org/a%20b?q=1&r=%C3%A9&empty=",
        "http://example.org/?monday=1",
        "http://[2001:db8::1]:81/",
        "https://example.org/a;v=1.2/b;c?q=1;session",
    ):
        assert public_url(url) == url
