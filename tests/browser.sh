#!/usr/bin/env bash
# browser.sh COMMAND...: run a command that needs Chromium and ChromeDriver, which Debian's and Ubuntu's packages bring
set -euo pipefail

found() {
  { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null &&
    command -v chromedriver >/dev/null
}

if ! found && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
fi
if ! found; then
  echo "error: chromium and chromedriver are needed to test pages; install them, such as Debian's chromium and chromium-driver" >&2
  exit 2
fi
exec "$@"
