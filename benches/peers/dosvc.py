"""dosvc in the peer-system benchmark (a harness of its own; docs/benchmarks.md has the command).

Loaded by the harness through PEERS_DRIVERS. Every node runs the release binary as a daemon with its real store on the
node's own address; `dosvc get` asks that daemon over its Unix socket and puts the file at its destination. Every piece
is verified with SHA-256.

    dosvc           daemons resident, only `dosvc get` is timed (process start included); peers from the configuration
    dosvc-dns-sd    the same, peers found by multicast DNS
    dosvc-cold      the daemon's start is in the measured time too
    dosvc-held      for W4: a daemon whose cache holds the content from an earlier life (filled by the first repetition)

PEERS_DOSVC names the binary; default: target/release/dosvc of this repository (or of CARGO_TARGET_DIR).
"""
import json, os, subprocess
from drivers import Driver, Handle, Proc, exit_done, first_line, wait_for

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")
BIN = os.environ.get("PEERS_DOSVC") or os.path.join(TARGET, "release", "dosvc")
PORT = 7680

# The least that the policies allow, so that the gates for small machines and small files are open.
CONF = """
[delivery_optimization]
download_mode = 1
min_file_size_to_cache = 1
min_disk_size_allowed_to_peer = 1
min_ram_allowed_to_peer = 1
[daemon]
state_dir = "{state}"
api_socket = "{d}/api"
listen = ["{ip}:{port}"]
log_level = "warn"
[cache]
keep_free_percent = 0
[discovery]
dns_sd = {dns_sd}
peers = [{peers}]
"""


class Daemon:
    """What one node's commands are made of."""

    def __init__(self, node, dns_sd, state=None):
        self.dir, self.ns = node.dir, node.ns
        others = [] if dns_sd else [f'"{n.ip}:{PORT}"' for n in node.lab.nodes if n.i != node.i]
        self.config = f"{node.dir}/dosvc.toml"
        with open(self.config, "w") as f:
            f.write(CONF.format(d=node.dir, state=state or f"{node.dir}/state", ip=node.ip, port=PORT, dns_sd=str(dns_sd).lower(), peers=", ".join(others)))

    def argv(self, *args):
        return [BIN, "--config", self.config, *args]

    def start(self):
        return Proc(self.argv("run"), ns=self.ns, cwd=self.dir, log=f"{self.dir}/daemon.log")

    def answers(self):
        # Asked without a process of our own: connecting is enough to know that the local API is up.
        import socket
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(f"{self.dir}/api")
            return True
        except OSError:
            return False
        finally:
            s.close()

    def get(self, content):
        out = os.path.join(self.dir, content.name)
        return Proc(self.argv("get", "--json", "--foreground", "--hash-file", hash_file(content), "-o", out), ns=self.ns, cwd=self.dir,
                    log=f"{self.dir}/get.log")

    def ask(self, *args, timeout=120):
        argv = ["nsenter", f"--net=/run/netns/{self.ns}", "--", *self.argv(*args)]
        r = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, cwd=self.dir)
        if r.returncode:
            raise RuntimeError(f"dosvc {args[0]}: {r.stderr.strip()}")
        return r.stdout


def hash_file(content):
    """Beside the content; made once by the seed."""
    return content.path + ".phf"


def last_json(path):
    with open(path) as f:
        lines = [x for x in f.read().splitlines() if x.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


class Dosvc(Driver):
    name = "dosvc"
    dns_sd = False

    def available(self):
        return os.access(BIN, os.X_OK)

    def version(self):
        return first_line(BIN, "--version")

    def _daemon(self, node, state=None):
        d = Daemon(node, self.dns_sd, state)
        h = Handle([d.start()], out=None)
        h.daemon = d
        return h

    def _ready(self, h):
        wait_for(lambda: h.daemon.answers() or h.failed(), 20, "dosvc run")
        if h.failed():
            raise RuntimeError("dosvc run has ended: " + open(f"{h.daemon.dir}/daemon.log").read()[-300:])

    def start_seed(self, node, content):
        h = self._daemon(node)
        self._ready(h)
        h.daemon.ask("publish", content.path, "--out", hash_file(content), "--seed", "--link")
        return h

    # The daemon's start is inside the measured time.
    def start_leech(self, node, content, seed):
        h = self._daemon(node)
        h.out = os.path.join(node.dir, content.name)
        h.get = None

        def done():
            if h.get is None:
                if h.daemon.answers():
                    h.get = h.daemon.get(content)
                    h.procs.append(h.get)
                return None
            return h.get.t_exit if h.get.poll() == 0 else None

        h._done = done
        h.failed = lambda: h.t_done is None and (h.procs[0].poll() is not None or (h.get is not None and h.get.poll() not in (None, 0)))
        h._stats = lambda: last_json(f"{h.daemon.dir}/get.log")
        return h


class DosvcWarm(Dosvc):
    """Daemons resident before the clock starts, as in real use."""

    def prestart(self, node, content, seed):
        return self._daemon(node)

    def prestarted(self, h):
        self._ready(h)

    def start_warm(self, h, node, content, seed):
        g = h.daemon.get(content)
        h.procs.append(g)
        h.out = os.path.join(node.dir, content.name)
        h._done = exit_done(g)
        h.failed = lambda: h.t_done is None and (h.procs[0].poll() is not None or g.poll() not in (None, 0))
        h._stats = lambda: last_json(f"{h.daemon.dir}/get.log")
        return h


class DosvcCold(Dosvc):
    name = "dosvc-cold"


class DosvcDnsSd(DosvcWarm):
    name = "dosvc-dns-sd"
    dns_sd = True


class DosvcHeld(Dosvc):
    """The state folder stays beside the content from one repetition to the next."""
    name = "dosvc-held"

    def start_seed(self, node, content):
        state = os.path.join(content.dir, "dosvc-state")
        filled = os.path.exists(state)
        h = self._daemon(node, state)
        self._ready(h)
        if not filled:
            h.daemon.ask("publish", content.path, "--out", hash_file(content), "--seed", "--link")
        return h


DRIVERS = [DosvcWarm, DosvcCold, DosvcDnsSd, DosvcHeld]
