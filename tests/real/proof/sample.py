"""A made-up package index in the format of the real one, for machines without apt-cache."""

from collections.abc import Iterator


def sample_index(packages: int) -> Iterator[str]:
    """Lines as `apt-cache dumpavail` prints them; the last package stands there twice."""
    for line in range(packages):
        number = min(line, packages - 2)
        yield f"Package: aspen-{number}\n"
        yield f"Version: {1 + number % 3}:{number % 10}.{number % 7}-1+deb12u1\n"
        yield f"Installed-Size: {number * 37 % 90_000}\n"
        yield "Maintainer: Zoë Müller <zoe@example.org>\n"
        yield f"Depends: libc6 (>= 2.34), aspen-data (<= {number})\n"
        yield f"Description: tree number {line}\n"
        yield "Tag: role::program, interface::commandline,\n"
        yield " works-with::text\n"
        yield "\n"
