"""What the pages on the health port share: from where they may be looked at, and what a browser may do with them."""

from __future__ import annotations

import ipaddress
import secrets
from pathlib import Path

from starlette.responses import HTMLResponse

PAGES = Path(__file__).with_name("pages")


def loopback(host: str) -> bool:
    """Whether only this machine reaches `host` (an address or localhost)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def page_response(page: str) -> HTMLResponse:
    """A page of `pages/`, under a policy (CSP, level 3) that runs its own script, once, and loads from nowhere else."""
    nonce = secrets.token_urlsafe(16)
    rules = "default-src 'none'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    rules += f"frame-ancestors 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
    headers = {"Content-Security-Policy": rules, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return HTMLResponse((PAGES / page).read_text(encoding="utf-8").replace("{{nonce}}", nonce), headers=headers)
