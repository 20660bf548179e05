"""fake_hub plus discussions, pull requests and Xet storage.

MoreHub()                       LFS over HTTP (clients: HF_HUB_DISABLE_XET=1, or no hf_xet)
MoreHub(cas="local:///dir")     hf_xet stores the chunks itself in that directory
MoreHub(cas="http")             a CAS over HTTP: chunk offsets from xorbs, files from shards, no decompression
"""

import glob
import struct
import tempfile
import time

from tests.hub.fake_hub import NOW, PLACES, FakeHub, Handler, HTTPError, on

PLACES["hash"] = r"\w+"


def hexa(b):
    return "".join(f"{x:016x}" for x in struct.unpack("<4Q", b))


def read_shard(data):
    """(xet hash, sha256 or None, [(xorb, bytes, first chunk, end chunk)]) of each file of a metadata shard."""
    pos = 48
    while data[pos : pos + 32] != b"\xff" * 32:
        flags, n = struct.unpack_from("<II", data, pos + 32)
        segments = [
            (hexa(data[p : p + 32]), *struct.unpack_from("<III", data, p + 36))
            for p in range(pos + 48, pos + 48 * (n + 1), 48)
        ]
        end = pos + 48 * (1 + n * (1 + (flags >> 31 & 1)))
        yield hexa(data[pos : pos + 32]), hexa(data[end : end + 32]) if flags >> 30 & 1 else None, segments
        pos = end + 48 * (flags >> 30 & 1)


class MoreHub(FakeHub):
    def __init__(self, cas=None, **kw):
        self.xorbs, self.files = {}, {}  # xorb hash -> (bytes, chunk offsets); xet hash -> (sha256, segments)
        super().__init__(**kw)
        self.cas = self.url + "/_cas" if cas == "http" else cas

    def xet_files(self):
        for path in (
            glob.glob(self.cas.removeprefix("local://") + "/xet/xorbs/shards/*.mdb")
            if (self.cas or "").startswith("local://")
            else ()
        ):
            self.files.update((xet, (sha, segments)) for xet, sha, segments in read_shard(open(path, "rb").read()))
        return {sha: (xet, sum(s[1] for s in segments)) for xet, (sha, segments) in self.files.items()}

    def blob(self, sha):
        if sha not in self.blobs:
            import hf_xet  # the real client rebuilds the file, maybe through this very server: let go of the lock

            xet, size = self.xet_files()[sha]
            self.lock.release()
            try:
                with tempfile.NamedTemporaryFile() as tmp:
                    with hf_xet.XetSession().new_file_download_group(
                        endpoint=self.cas, token="x", token_expiry_unix_secs=int(time.time()) + 3600
                    ) as group:
                        group.start_download_file(hf_xet.XetFileInfo(xet, size), tmp.name)
                    self.blobs[sha] = open(tmp.name, "rb").read()
            finally:
                self.lock.acquire()
        return self.blobs[sha]


@on("GET", "/api/{type}/{id}/xet-(?P<kind>read|write)-token/{rev}")
def xet_token(self, type, id, kind, rev):
    self.repo(type, id, write=kind == "write" and not self.query.get("create_pr"), content=True)
    if not self.hub.cas:
        raise HTTPError(404, "Xet is not enabled on this fake")
    expires = int(time.time()) + 3600
    answer = f'{{"accessToken": "xet", "exp": {expires}, "casUrl": "{self.hub.cas}"}}'.encode()
    return (
        200,
        answer,
        {"X-Xet-Cas-Url": self.hub.cas, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)},
    )


@on("GET", "/_cas/v1/chunks/default/{hash}")
def dedup(self, hash):
    return 404, b"", {}


@on("POST", "/_cas/v1/xorbs/default/{hash}")
def put_xorb(self, hash):
    data, pos, offsets = self.body, 0, [0]
    while pos + 8 <= len(data) and data[pos] == 0:  # chunk header: version 0, u24 packed size, u8 scheme, u24 size
        pos += 8 + int.from_bytes(data[pos + 1 : pos + 4], "little")
        offsets.append(pos)
    self.hub.xorbs[hash] = (data[:pos], offsets)
    return {"was_inserted": True}


@on("POST", "/_cas/v(?P<v>[12])/shards")
def put_shard(self, v):
    self.hub.files.update((xet, (sha, segments)) for xet, sha, segments in read_shard(self.body))
    return (
        {"result": 1}
        if v == "1"
        else (
            200,
            b'{"type":"validating","total":0,"verified":0}\n{"type":"result"}\n',
            {"Content-Type": "application/x-ndjson"},
        )
    )


@on("GET", "/_cas/v1/reconstructions/{hash}")
def reconstruction(self, hash):
    if hash not in self.hub.files:
        raise HTTPError(404, "not found")
    terms, fetch = [], {}
    for xorb, size, start, end in self.hub.files[hash][1]:
        offsets, chunks = self.hub.xorbs[xorb][1], {"start": start, "end": end}
        terms.append({"hash": xorb, "unpacked_length": size, "range": chunks})
        fetch.setdefault(xorb, []).append(
            {
                "range": chunks,
                "url": f"{self.hub.url}/_xorb/{xorb}",
                "url_range": {"start": offsets[start], "end": offsets[end] - 1},
            }
        )
    return {"offset_into_first_range": 0, "terms": terms, "fetch_info": fetch}


@on("GET", "/_xorb/{hash}")
def get_xorb(self, hash):
    return 200, self.hub.xorbs[hash][0], {"Content-Type": "application/octet-stream"}


def event(self, d, type, **data):
    d["events"].append(
        {"id": f"{len(d['events']):024x}", "type": type, "createdAt": NOW, "author": {"name": self.user}, "data": data}
    )
    return d["events"][-1]


def open_discussion(self, repo, title, text, pull, oid=None):
    d = {
        "num": len(repo.discussions) + 1,
        "title": title,
        "author": {"name": self.user},
        "createdAt": NOW,
        "status": "draft" if pull and not oid else "open",
        "repo": {"name": repo.id, "type": repo.type.rstrip("s")},
        "isPullRequest": pull,
        "changes": {"base": "refs/heads/main"},
        "filesWithConflicts": False,
        "events": [],
    }
    repo.discussions.append(d)
    event(self, d, "comment", edited=False, hidden=False, latest={"raw": text})
    if pull:
        repo.pulls[f"refs/pr/{d['num']}"] = oid or repo.branches["main"]
    return d


def open_pull(self, repo, header, oid):
    d = open_discussion(self, repo, header["summary"], header.get("description", ""), True, oid)
    return {
        "success": True,
        "pullRequestUrl": f"{self.hub.url}/{'' if repo.type == 'models' else repo.type + '/'}{repo.id}/discussions/{d['num']}",
    }


Handler.open_pull = open_pull


@on("GET POST", "/api/{type}/{id}/discussions")
def discussions(self, type, id):
    repo = self.repo(type, id)
    if self.command == "GET":
        return {"discussions": repo.discussions, "count": len(repo.discussions), "start": 0}
    self.need_user()
    req = self.json()
    return open_discussion(self, repo, req["title"], req["description"], req["pullRequest"])


@on("GET POST", "/api/{type}/{id}/discussions/{num}(?:/(?P<verb>comment|status|merge))?")
def discussion(self, type, id, num, verb=None):
    repo = self.repo(type, id, write=verb == "merge")
    if int(num) > len(repo.discussions):
        raise HTTPError(404, "Discussion not found")
    d = repo.discussions[int(num) - 1]
    if verb == "comment":
        return {
            "newMessage": event(self, d, "comment", edited=False, hidden=False, latest={"raw": self.json()["comment"]})
        }
    if verb == "status":
        d["status"] = self.json()["status"]
        return {"newStatus": event(self, d, "status-change", status=d["status"])}
    if verb == "merge":
        repo.branches["main"], d["status"] = repo.pulls[f"refs/pr/{num}"], "merged"
        d["changes"]["mergeCommitId"] = repo.branches["main"]
    return d
