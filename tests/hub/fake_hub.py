"""In-process fake of the Hugging Face Hub for tests: real HTTP(S) on loopback, state in memory, stdlib only (+PyYAML).

    with FakeHub() as hub:                      # set HF_ENDPOINT=hub.url before huggingface_hub is imported,
        HfApi(endpoint=hub.url, token="hf_alice").create_repo("acme/m")         # or pass endpoint= everywhere

Shapes follow what huggingface_hub 2.4.0 sends and reads, and recordings of the public Hub (September 2026).
hub.log lists the requests; hub.fault(regex, action, ...) injects drops, resets, corruption, status codes, delays.
fake_hub_more.py adds discussions, pull requests and Xet storage.
"""

import base64
import collections
import contextlib
import fnmatch
import hashlib
import json
import math
import re
import socket
import ssl
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

NOW, LFS_THRESHOLD = "2026-01-01T00:00:00.000Z", 10 * 1024 * 1024
LFS_PATTERNS = [
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.onnx",
    "*.h5",
    "*.gguf",
    "*.npz",
    "*.npy",
    "*.parquet",
    "*.zip",
    "*.gz",
]
File = collections.namedtuple("File", "size oid sha lfs")  # oid: git blob id (of the pointer when lfs); sha: sha256
PLACES = {
    "type": "models|datasets|spaces",
    "id": "[^/]+/[^/]+?",
    "rev": "[^/]+",
    "path": ".+",
    "sha": r"\w+",
    "num": r"\d+",
}
ROUTES = []


def on(methods, path):
    regex = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{PLACES[m[1]]})", path)
    return lambda fn: ROUTES.append((methods.split(), re.compile(regex), fn)) or fn


def git_sha(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_file(sha, size):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()
    return File(size, git_sha(pointer), sha, {"oid": sha, "sha256": sha, "size": size, "pointerSize": len(pointer)})


class HTTPError(Exception):
    def __init__(self, status, message, code=None, body=None, **headers):
        self.status, self.body = status, body or {"error": message}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


class Repo:
    def __init__(self, type, id, private):
        self.type, self.id, self.owner, self.private, self.gated, self.granted = (
            type,
            id,
            id.split("/")[0],
            private,
            False,
            set(),
        )
        self.commits, self.branches, self.tags, self.pulls, self.discussions = {}, {}, {}, {}, []

    def resolve(self, rev):
        for table in (self.branches, self.tags, self.pulls):
            if rev in table:
                return table[rev]
        if len(rev) >= 7 and len(found := [c for c in self.commits if c.startswith(rev)]) == 1:
            return found[0]
        raise HTTPError(404, f"Invalid rev id: {rev}", "RevisionNotFound")

    def commit(self, tree, parent, message, author):
        oid = hashlib.sha1(repr((self.id, len(self.commits), parent, message, sorted(tree))).encode()).hexdigest()
        self.commits[oid] = {"tree": tree, "parent": parent, "message": message, "author": author}
        return oid


class FakeHub:
    def __init__(self, tokens=None, tls=None, cdn_redirect=True):
        # token -> (user, organisations, may write); tls: (certificate chain file, key file)
        self.tokens = tokens or {
            "hf_alice": ("alice", ["acme"], True),
            "hf_bob": ("bob", [], True),
            "hf_read": ("alice", ["acme"], False),
        }
        self.repos, self.blobs, self.faults, self.log, self.connections, self.lock = (
            {},
            {},
            [],
            [],
            set(),
            threading.RLock(),
        )
        self.cdn_redirect, self.tls = cdn_redirect, bool(tls)
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.httpd.socket = context.wrap_socket(self.httpd.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.httpd.server_port}"

    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.httpd.shutdown(), self.httpd.server_close()
        for connection in list(
            self.connections
        ):  # kept alive by the client: a server that is down must not answer on them
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def fault(self, regex, action, times=1, **kw):
        """For the next `times` requests matching "METHOD /path?query": 'status' (status=, headers={}), 'delay' (seconds=),
        'close' (do it, answer nothing), 'drop' / 'reset' (FIN / RST after at= body bytes), 'corrupt' (flip the byte at=),
        'truncate' (an honest answer of only at= bytes), 'norange' (ignore Range)."""
        self.faults.append(dict(regex=re.compile(regex), action=action, times=times, **kw))

    def put(self, data, lfs=False):
        self.blobs[sha := hashlib.sha256(data).hexdigest()] = data
        return lfs_file(sha, len(data)) if lfs else File(len(data), git_sha(data), sha, None)

    def blob(self, sha):
        return self.blobs[sha]

    def xet_files(self):
        return {}  # sha256 -> (xet hash, size)


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True  # else 40 ms per answer

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *args):
        pass

    def handle_any(self):
        url = urlsplit(self.path)
        self.query, hub, line = (
            {k: v[-1] for k, v in parse_qs(url.query).items()},
            self.hub,
            f"{self.command} {self.path}",
        )
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size + 2)[:-2]
            self.rfile.readline()
        self.entry = {
            "line": line,
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "body": self.body,
            "status": None,
            "sent": 0,
        }
        with hub.lock:
            hub.log.append(self.entry)
            self.fault = next(
                (f for f in hub.faults if f["times"] > 0 and f["regex"].search(line)), {"action": None, "times": 0}
            )
            self.fault["times"] -= 1
        try:
            if self.fault["action"] == "delay":
                time.sleep(self.fault["seconds"])
            if self.fault["action"] == "status":
                raise HTTPError(self.fault["status"], "injected", **self.fault.get("headers", {}))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            self.user, self.orgs, self.writer = hub.tokens.get(token, (None, [], False))
            for methods, regex, fn in ROUTES:
                if self.command in methods and (m := regex.fullmatch(url.path)):
                    with hub.lock:
                        answer = fn(self, **{k: v and unquote(v) for k, v in m.groupdict().items()})
                    break
            else:
                raise HTTPError(404, f"the fake hub has no route for {line}")
            self.send(*answer) if isinstance(answer, tuple) else self.send(200, json.dumps(answer).encode(), {})
        except HTTPError as e:
            self.send(e.status, json.dumps(e.body).encode(), e.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def send(self, status, body, headers):
        fault, action, size = self.fault, self.fault["action"], len(body)
        m = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if m and status == 200 and action != "norange":
            start, stop = int(m[1]), min(int(m[2] or size), size - 1)
            status, body = (206, body[start : stop + 1]) if start < size else (416, b"")
            headers = {
                **headers,
                "Content-Range": f"bytes {start}-{stop}/{size}" if start < size else f"bytes */{size}",
            }
        if action == "corrupt" and fault["at"] < len(body):
            body = body[: fault["at"]] + bytes([body[fault["at"]] ^ 255]) + body[fault["at"] + 1 :]
        if action == "truncate":
            body = body[: fault["at"]]
        self.close_connection = self.close_connection or action in ("close", "drop", "reset")
        if action == "close":
            return
        self.entry["status"] = status
        self.send_response(status)
        for k, v in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json; charset=utf-8",
            "X-Request-Id": "fake",
            **headers,
        }.items():
            self.send_header(k, v)
        self.end_headers()
        if self.command != "HEAD":
            body = body[: fault["at"]] if action in ("drop", "reset") else body
            self.wfile.write(body)
            self.entry["sent"] = len(body)
        if action == "reset":
            time.sleep(0.2)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def json(self):
        return json.loads(self.body or b"{}")

    def need_user(self):
        if self.user is None:  # as recorded: no X-Error-Code; the client then recognises a missing repo only over https
            raise HTTPError(
                401,
                "Invalid username or password.",
                None if self.hub.tls else "RepoNotFound",
                **{"WWW-Authenticate": 'Bearer realm="Authentication required", charset="UTF-8"'},
            )

    def repo(self, type, id, write=False, content=False):
        repo = self.hub.repos.get((type or "models", id))
        member = repo is not None and repo.owner in (self.user, *self.orgs)
        if repo is None or (repo.private and not member):
            self.need_user()
            raise HTTPError(404, "Repository not found", "RepoNotFound")
        if content and repo.gated and not member and self.user not in repo.granted:
            text = f"Access to model {id} is restricted"
            raise (
                HTTPError(403, text + " and you are not in the authorized list.", "GatedRepo")
                if self.user
                else HTTPError(
                    401,
                    text + ". You must have access to it and be authenticated to access it. Please log in.",
                    "GatedRepo",
                )
            )
        if write:
            self.need_user()
            if not (self.writer and member):
                raise HTTPError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    # ---- repositories
    @on("GET", "/api/whoami-v2")
    def whoami(self):
        if self.user is None:
            raise HTTPError(401, "Invalid credentials in Authorization header")
        return {
            "type": "user",
            "name": self.user,
            "orgs": [{"name": o, "type": "org"} for o in self.orgs],
            "auth": {"accessToken": {"displayName": "fake", "role": "write" if self.writer else "read"}},
        }

    @on("POST", "/api/repos/create")
    def create_repo(self):
        self.need_user()
        req = self.json()
        owner, kind = req.get("organization") or self.user, req.get("type") or "model"
        id, key = f"{owner}/{req['name']}", kind + "s"
        url = f"{self.hub.url}/{'' if kind == 'model' else key + '/'}{id}"
        if owner not in (self.user, *self.orgs) or not self.writer:
            raise HTTPError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if (key, id) in self.hub.repos:  # the client reads "url" from the 409 too
            message = f"You already created this {kind} repo: {id}"
            raise HTTPError(409, message, body={"error": message, "url": url})
        repo = self.hub.repos[key, id] = Repo(key, id, req.get("visibility") == "private")
        attributes = "".join(f"{p} filter=lfs diff=lfs merge=lfs -text\n" for p in LFS_PATTERNS).encode()
        repo.branches["main"] = repo.commit(
            {".gitattributes": self.hub.put(attributes)}, None, "initial commit", self.user
        )
        return {"url": url, "name": id, "id": id}

    @on("DELETE", "/api/repos/delete")
    def delete_repo(self):
        req = self.json()
        repo = self.repo(
            (req.get("type") or "model") + "s", f"{req.get('organization') or self.user}/{req['name']}", write=True
        )
        del self.hub.repos[repo.type, repo.id]
        return {}

    @on("PUT", "/api/{type}/{id}/settings")
    def settings(self, type, id):
        repo, req = self.repo(type, id, write=True), self.json()
        repo.private, repo.gated = (
            req.get("visibility", "private" if repo.private else "") == "private",
            req.get("gated", repo.gated),
        )
        return {}

    @on("GET", "/api/{type}")
    def list_repos(self, type):
        return [
            self.info(*key)
            for key, r in list(self.hub.repos.items())
            if key[0] == type
            and r.owner == self.query.get("author", r.owner)
            and (not r.private or r.owner in (self.user, *self.orgs))
        ]

    @on("GET", "/api/{type}/{id}(?:/revision/{rev})?")
    def info(self, type, id, rev=None):
        repo = self.repo(type, id)
        oid = repo.resolve(rev or "main")
        tree, card, tensors = repo.commits[oid]["tree"], {}, collections.Counter()
        if "README.md" in tree and (m := re.match(rb"---\s*\n(.*?)\n---", self.hub.blob(tree["README.md"].sha), re.S)):
            try:
                card = yaml.safe_load(m[1]) or {}
            except yaml.YAMLError:  # pushed by git, which does not check it
                card = {}
        for path in [p for p in ("model.safetensors", "adapter_model.safetensors") if p in tree][:1]:
            data = self.hub.blob(tree[path].sha)
            for name, t in json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]).items():
                tensors.update({} if name == "__metadata__" else {t["dtype"]: math.prod(t["shape"])})
        siblings = [
            {"rfilename": p, **({"size": f.size, "blobId": f.oid, "lfs": f.lfs} if self.query.get("blobs") else {})}
            for p, f in sorted(tree.items())
        ]
        return {
            "id": id,
            "modelId": id,
            "author": repo.owner,
            "sha": oid,
            "private": repo.private,
            "gated": repo.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "cardData": card,
            "siblings": siblings,
            "createdAt": NOW,
            "lastModified": NOW,
            **{k: card[k] for k in ("library_name", "pipeline_tag", "tags") if k in card},
            **({"safetensors": {"parameters": dict(tensors), "total": sum(tensors.values())}} if tensors else {}),
        }

    @on("GET", "/api/{type}/{id}/auth-check")
    def auth_check(self, type, id):
        return self.repo(type, id, content=True) and {}

    def entry_json(self, path, f):
        xet = f.lfs and self.hub.xet_files().get(f.sha)
        return {
            "type": "file",
            "path": path,
            "size": f.size,
            "oid": f.oid,
            **({"lfs": f.lfs} if f.lfs else {}),
            **({"xetHash": xet[0]} if xet else {}),
        }

    @on("GET", "/api/{type}/{id}/tree/{rev}(?:/{path})?")
    def tree(self, type, id, rev, path=None):
        repo, prefix = self.repo(type, id), f"{path}/" if path else ""
        tree = {p: f for p, f in sorted(repo.commits[repo.resolve(rev)]["tree"].items()) if p.startswith(prefix)}
        if prefix and not tree:
            raise HTTPError(404, f"{path} does not exist", "EntryNotFound")
        flat = self.query.get("recursive", "false").lower() != "true"
        folders = {
            prefix + "/".join(rest[:i])
            for rest in (p[len(prefix) :].split("/") for p in tree)
            for i in range(1, len(rest))
            if i == 1 or not flat
        }
        return [{"type": "directory", "path": d, "size": 0, "oid": git_sha(d.encode())} for d in sorted(folders)] + [
            self.entry_json(p, f) for p, f in tree.items() if not (flat and "/" in p[len(prefix) :])
        ]

    @on("POST", "/api/{type}/{id}/paths-info/{rev}")
    def paths_info(self, type, id, rev):
        repo = self.repo(type, id)
        tree = repo.commits[repo.resolve(rev)]["tree"]
        return [self.entry_json(p, tree[p]) for p in parse_qs(self.body.decode()).get("paths", []) if p in tree]

    @on("GET", "/api/{type}/{id}/commits/{rev}")
    def commits(self, type, id, rev):
        repo, out = self.repo(type, id), []
        oid = repo.resolve(rev)
        while oid:
            c = repo.commits[oid]
            out.append(
                {"id": oid, "title": c["message"], "message": "", "date": NOW, "authors": [{"user": c["author"]}]}
            )
            oid = c["parent"]
        return out

    @on("GET", "/api/{type}/{id}/refs")
    def refs(self, type, id):
        repo = self.repo(type, id)

        def refs(prefix, table):
            return [{"name": n, "ref": prefix + n, "targetCommit": c} for n, c in table.items()]

        return {
            "branches": refs("refs/heads/", repo.branches),
            "tags": refs("refs/tags/", repo.tags),
            "converts": [],
            **({"pullRequests": refs("", repo.pulls)} if self.query.get("include_prs") else {}),
        }

    @on("POST DELETE", "/api/{type}/{id}/(?P<kind>tag|branch)/{rev}")
    def tag_or_branch(self, type, id, kind, rev):
        repo, req = self.repo(type, id, write=True), self.json()
        table, name = (repo.tags, req.get("tag", rev)) if kind == "tag" else (repo.branches, rev)
        if self.command == "DELETE":
            if table.pop(name, None) is None:
                raise HTTPError(404, f"{kind} not found: {name}", "RevisionNotFound")
        elif name in table:
            raise HTTPError(409, f"Reference already exists: {name}")
        else:
            table[name] = repo.resolve(rev if kind == "tag" else req.get("startingPoint") or "main")
        return {}

    # ---- uploads
    @on("POST", "/api/validate-yaml")
    def validate_yaml(self):
        m = re.match(r"---\s*\n(.*?)\n---", self.json()["content"], re.S)
        try:
            yaml.safe_load(m[1] if m else "")
        except yaml.YAMLError as e:
            raise HTTPError(400, "invalid metadata", body={"errors": [{"message": str(e)}], "warnings": []})
        return {"errors": [], "warnings": [] if m else [{"message": "empty or missing yaml metadata in repo card"}]}

    @on("POST", "/api/{type}/{id}/preupload/{rev}")
    def preupload(self, type, id, rev):
        repo, req, out = self.repo(type, id, write=not self.query.get("create_pr")), self.json(), []
        tree = repo.commits[head := repo.resolve(rev)]["tree"]
        for f in req["files"]:
            name, old = f["path"].rsplit("/", 1)[-1], tree.get(f["path"])
            lfs = (
                f["size"] >= LFS_THRESHOLD
                or b"\0" in base64.b64decode(f["sample"])
                or any(fnmatch.fnmatch(name, p) for p in LFS_PATTERNS)
            )
            out.append(
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if lfs else "regular",
                    **({"oid": old.sha if old.lfs else old.oid} if old else {}),
                    "shouldIgnore": any(fnmatch.fnmatch(name, p) for p in req.get("gitIgnore", "").split()),
                }
            )
        return {"commitOid": head, "files": out}

    @on("POST", r"/(?:{type}/)?{id}\.git/info/lfs/objects/batch")
    def lfs_batch(self, id, type=None):
        self.repo(type, id, write="ref" in self.json())  # without "ref": for a pull request

        def put(sha):
            return {
                "actions": {
                    "upload": {"href": f"{self.hub.url}/_lfs/{sha}"},
                    "verify": {"href": f"{self.hub.url}/_lfs/{sha}/verify"},
                }
            }

        return {
            "transfer": "basic",
            "objects": [{**o, **({} if o["oid"] in self.hub.blobs else put(o["oid"]))} for o in self.json()["objects"]],
        }

    @on("PUT", "/_lfs/{sha}")
    def lfs_put(self, sha):
        if self.hub.put(self.body).sha != sha:
            raise HTTPError(400, "BadDigest: the SHA-256 you specified did not match what we received")
        return 200, b"", {"ETag": f'"{sha}"'}

    @on("POST", "/_lfs/{sha}/verify")
    def lfs_verify(self, sha):
        if len(self.hub.blobs.get(sha, b"")) != self.json()["size"]:
            raise HTTPError(404, "object not found")
        return {}

    @on("POST", "/api/{type}/{id}/commit/{rev}")
    def commit(self, type, id, rev):
        pr, lines = self.query.get("create_pr"), [json.loads(l) for l in self.body.decode().splitlines() if l.strip()]
        repo, header = (
            self.repo(type, id, write=not pr and not rev.startswith("refs/pr/")),
            next(l["value"] for l in lines if l["key"] == "header"),
        )
        self.need_user()
        heads = repo.pulls if rev in repo.pulls else repo.branches
        if rev not in heads:
            raise HTTPError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        parent = header.get("parentCommit")
        head = repo.resolve(parent) if pr and parent else heads[rev]
        if parent and not head.startswith(parent):
            raise HTTPError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repo.commits[head]["tree"])
        for key, v in [(l["key"], l["value"]) for l in lines]:
            if key == "file":
                tree[v["path"]] = self.hub.put(base64.b64decode(v["content"]))
            elif key == "lfsFile":
                size = (
                    len(self.hub.blobs[v["oid"]])
                    if v["oid"] in self.hub.blobs
                    else self.hub.xet_files().get(v["oid"], (0, None))[1]
                )
                if size is None:
                    raise HTTPError(
                        400,
                        f"Your push was rejected because an LFS pointer pointed to a file that does not exist. Offending file: - {v['path']}",
                    )
                tree[v["path"]] = lfs_file(v["oid"], size)
            elif key in ("deletedFile", "deletedFolder"):
                gone = [
                    p
                    for p in tree
                    if p == v["path"] or (key == "deletedFolder" and p.startswith(v["path"].rstrip("/") + "/"))
                ]
                if not gone:
                    raise HTTPError(404, "A file with this name doesn't exist", "EntryNotFound")
                tree = {p: f for p, f in tree.items() if p not in gone}
        oid = repo.commit(tree, head, header["summary"], self.user)
        if pr:
            return {
                **self.open_pull(repo, header, oid),
                "commitOid": oid,
                "commitUrl": f"{self.hub.url}/{id}/commit/{oid}",
            }
        heads[rev] = oid
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}", "hookOutput": ""}

    def open_pull(self, repo, header, oid):
        raise HTTPError(501, "pull requests are in fake_hub_more.py")

    # ---- downloads
    @on("GET HEAD", "/(?:{type}/)?{id}/resolve/{rev}/{path}")
    def resolve(self, id, rev, path, type=None):
        repo = self.repo(type, id, content=True)
        f = repo.commits[oid := repo.resolve(rev)]["tree"].get(path)
        if f is None:
            raise HTTPError(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": oid})
        headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if not f.lfs:
            return 200, self.hub.blob(f.sha), {**headers, "ETag": f'"{f.oid}"'}
        headers |= {"X-Linked-Etag": f'"{f.sha}"', "X-Linked-Size": str(f.size)}
        if xet := self.hub.xet_files().get(f.sha):
            headers |= {
                "X-Xet-Hash": xet[0],
                "Link": f'<{self.hub.url}/api/{type or "models"}/{id}/xet-read-token/{oid}>; rel="xet-auth"',
            }
        if not self.cdn():
            return 200, self.hub.blob(f.sha), {**headers, "ETag": f'"{f.sha}"'}
        return 302, b"Found.", {**headers, "Location": f"{self.cdn()}/_cdn/{f.sha}"}

    def cdn(self):  # another origin than the endpoint, as on the Hub: the client must not send its token there
        return self.hub.url.replace("127.0.0.1", "localhost") if self.hub.cdn_redirect else None

    @on("GET HEAD", "/_cdn/{sha}")
    def cdn_get(self, sha):
        return (
            200,
            self.hub.blob(sha),
            {"ETag": f'"{sha}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"},
        )
