#!/bin/sh
# Builds the peer in the folder it is called in, a copy of its sources.
set -eu
# One of its libraries is compiled here.
headers() {
    python3 -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' &&
        echo '#include <gmp.h>' | cc -E - >/dev/null 2>&1
}
headers || { apt-get -o DPkg::Lock::Timeout=300 update -qq && apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends libgmp-dev python3-dev; }
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
