"""A small server that answers like the Hugging Face hub, for one user and models."""

import base64
import hashlib
import http.server
import json
import threading
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories of models, which tests look into and change.

    Attributes:
      repositories: contents of files, by repository and name.
      private: whether a repository was made private.
      read_only: whether the user may not write.
      url: address of the server.
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.read_only = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Prints nothing."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = urlsplit(self.path).path
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        elif not known or self.hub.read_only:
            self._reply({"error": "no"}, status=403 if known else 401)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            for file in files:
                file |= {"uploadMode": "regular", "shouldIgnore": False}
            self._reply({"files": files})
        elif "/commit/" in path:
            files = self.hub.repositories[_name(path)]
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    content = base64.b64decode(row["value"]["content"])
                    files[row["value"]["path"]] = content
            url = f"{self.hub.url}/{_name(path)}/commit/{_COMMIT}"
            self._reply({"commitUrl": url, "commitOid": _COMMIT, "success": True})
        else:
            self._reply({"error": "unknown"}, status=404)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            self._list(path)
            return
        name, _, rest = path[1:].partition("/resolve/")
        content = self.hub.repositories.get(name, {}).get(rest.partition("/")[2])
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound"}
            self._reply({}, status=404, headers=headers)
        else:
            tag = hashlib.sha256(content).hexdigest()
            self._send(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": _COMMIT})

    do_HEAD = do_GET

    def _create(self, wanted):
        owner, name = wanted.get("organization") or "me", wanted["name"]
        full = f"{owner}/{name}"
        if full in self.hub.repositories:
            self._reply(
                {"error": "exists", "url": f"{self.hub.url}/{full}"}, status=409
            )
            return
        self.hub.repositories[full] = {".gitattributes": b""}
        self.hub.private[full] = (
            wanted.get("private") is True or wanted.get("visibility") == "private"
        )
        self._reply({"url": f"{self.hub.url}/{full}"})

    def _list(self, path):
        name = _name(path)
        files = self.hub.repositories.get(name)
        if files is None:
            headers = {"X-Error-Code": "RepoNotFound"}
            self._reply({"error": "none"}, status=404, headers=headers)
            return
        siblings = [{"rfilename": file} for file in files]
        if "/tree/" in path:
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in files.items()
            ]
            self._reply(tree)
            return
        self._reply({"id": name, "sha": _COMMIT, "siblings": siblings, "tags": []})

    def _reply(self, value, *, status=200, headers=None):
        headers = {"Content-Type": "application/json", **(headers or {})}
        self._send(json.dumps(value).encode(), status=status, headers=headers)

    def _send(self, content, *, status=200, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _name(path):
    """Returns org/name of the path of a request about a model."""
    return "/".join(path.split("/")[3:5])
