"""Several hosts on one machine: namespaces that hang by cables on a switch of their own, for tests that break them.

A host has its own network, processes, hostname, `/tmp`, `/dev/shm` and disk size; nothing touches the machine's own network.
Needs root, iproute2 and util-linux; `missing()` tells what lacks.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["REPOSITORY", "Host", "Network", "missing", "network"]

REPOSITORY = Path(__file__).resolve().parents[2]
KEPT = tuple(dict.fromkeys(os.path.realpath(path) for path in (REPOSITORY, sys.prefix)))
"""Folders that hosts share, read only: the checkout and the environment."""
SUBNET = "10.77.0"
LIFE_SECONDS = 3600
PR_SET_PDEATHSIG = 1
INIT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
place=0
for folder in $KEPT; do
    mkdir /mnt/$place; mount --bind "$folder" /mnt/$place; mount -o remount,bind,ro /mnt/$place; place=$((place + 1))
done
mount -t tmpfs -o size=$DISK tmpfs /tmp
mount -t tmpfs -o size=$SHM tmpfs /dev/shm
place=0
for folder in $KEPT; do
    case "$folder" in /tmp/*) mkdir -p "$folder";; esac
    mount --bind /mnt/$place "$folder"; mount -o remount,bind,ro "$folder"; place=$((place + 1))
done
mkdir -p /tmp/home
printf '127.0.0.1 localhost\\n%s\\n' "$NAMES" > /tmp/hosts
mount --bind /tmp/hosts /etc/hosts
hostname $NAME
touch /tmp/ready
SECONDS=0
while [ $SECONDS -lt $LIFE ]; do sleep 5 & wait; done
"""


def missing() -> str | None:
    """Return what this machine lacks for hosts, or None where all is there."""
    if os.name != "posix" or os.getuid() != 0:
        return "hosts in namespaces need root"
    for tool in ("ip", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"hosts in namespaces need the command {tool}"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else f"this machine forbids namespaces: {probe.stderr.decode().strip()}"


@dataclass
class Host:
    """One host; see the module."""

    name: str
    number: int
    net: str
    switch: str
    names: str
    disk: str = "2g"
    init: subprocess.Popen[bytes] | None = None
    pid: int = 0
    spawned: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{SUBNET}.{self.number}"

    @property
    def port(self) -> str:
        """Name of the switch's end of the cable."""
        return f"p{self.number}"

    def start(self) -> None:
        """Boot: an empty disk, a plugged cable."""
        settings = {"NAME": self.name, "DISK": self.disk, "SHM": "600m", "LIFE": str(LIFE_SECONDS), "NAMES": self.names}
        command = ["nsenter", f"--net=/run/netns/{self.net}", "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"]
        command += ["--kill-child", "--mount-proc", "bash", "-c", INIT]
        environment = {"PATH": os.environ["PATH"], "KEPT": " ".join(KEPT), **settings}
        self.init = subprocess.Popen(
            command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL, preexec_fn=_die_with_the_tests
        )
        until = time.monotonic() + 60
        while not self._booted():
            assert self.init.poll() is None, f"{self.name} did not boot"
            assert time.monotonic() < until, f"{self.name} did not boot in time"
            time.sleep(0.05)

    def _booted(self) -> bool:
        assert self.init is not None
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()
        self.pid = int(children[0]) if children else 0
        return bool(self.pid) and self.path("/tmp/ready").exists()

    def path(self, inside: str) -> Path:
        """Return where this machine sees a path of the host."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], log: str = "/tmp/out.log") -> subprocess.Popen[bytes]:
        """Start a process on the host, in the checkout's folder; its output goes to a file there."""
        whole, variables = [*self._enter(), *command], self._environment(environment)
        with self.path(log).open("ab") as out:
            process = subprocess.Popen(whole, env=variables, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        self.spawned.append(process)
        return self.spawned[-1]

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a process on the host to its end."""
        whole, variables = [*self._enter(), *command], self._environment(environment)
        return subprocess.run(whole, env=variables, capture_output=True, text=True, timeout=timeout, check=False)

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "-i", "-p", f"--wd={REPOSITORY}"]

    def _environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        given = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "PYTHON", "TMP"))}
        return {**given, "HOME": "/tmp/home", "PATH": path, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", **extra}

    def processes(self, title: str) -> list[int]:
        """Return the machine's ids of the host's processes whose command line begins with `title`."""
        mine, found = os.readlink(f"/proc/{self.pid}/ns/pid"), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, UnicodeDecodeError):
                command = (folder / "cmdline").read_text().replace("\0", " ")
                if command.startswith(title) and os.readlink(folder / "ns/pid") == mine:
                    found.append(int(folder.name))
        return found

    def crash(self) -> None:
        """End everything on the host at once; its disk is gone."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            assert self.init is not None
            for process in (self.init, *self.spawned):
                process.wait(timeout=20)
            self.spawned.clear()
            self.pid = 0

    def cut(self) -> None:
        """Pull the cable."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def heal(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self.switch, "link", "set", self.port, "up")

    def lose_power(self) -> None:
        """Go silent, then end: peers hear no goodbye."""
        self.cut()
        self.crash()

    def fill_disk(self) -> None:
        """Leave no free byte in `/tmp`."""
        self.run(["bash", "-c", "cat /dev/zero > /tmp/filler; true"], {})

    def free_disk(self) -> None:
        """Take back what `fill_disk` wrote."""
        self.path("/tmp/filler").unlink(missing_ok=True)


@dataclass
class Network:
    """The switch and the hosts on it."""

    prefix: str
    names: tuple[str, ...]
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def switch(self) -> str:
        return f"{self.prefix}sw"

    def start(self, disks: Mapping[str, str]) -> None:
        """Bring the switch and all hosts up."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "br0", "up")
        names = "\n".join(f"{SUBNET}.{number} {name}" for number, name in enumerate(self.names, start=1))
        for number, name in enumerate(self.names, start=1):
            host = Host(name, number, f"{self.prefix}{name}", self.switch, names, disks.get(name, "2g"))
            self._plug(host)
            self.hosts[name] = host
            host.start()

    def _plug(self, host: Host) -> None:
        _ip("netns", "add", host.net)
        _ip("-n", host.net, "link", "set", "lo", "up")
        _ip("link", "add", "eth0", "netns", host.net, "type", "veth", "peer", "name", host.port, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", host.port, "master", "br0", "up")
        _ip("-n", host.net, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip("-n", host.net, "link", "set", "eth0", "up")

    def stop(self) -> None:
        """Take everything down."""
        for host in self.hosts.values():
            host.crash()
        for name in (*(host.net for host in self.hosts.values()), self.switch):
            _ip("netns", "delete", name)


@contextmanager
def network(*names: str, disks: Mapping[str, str] | None = None) -> Iterator[Network]:
    """Give hosts of those names for the length of a `with` block."""
    found = Network(f"cryptoml{os.getpid()}-", names)
    _sweep()
    try:
        found.start(disks or {})
        yield found
    finally:
        found.stop()


def _die_with_the_tests() -> None:
    """Let the kernel end this process, and the host below it, when the one that runs the tests is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _sweep() -> None:
    """Delete the networks that killed tests have left."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        owner = re.match(r"cryptoml(\d+)-", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
