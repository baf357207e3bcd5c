"""Where a request comes from, as far as that can be known."""

from starlette.requests import Request


def address_of(request: Request) -> str | None:
    """The client's address. A header is believed only if it comes from one of PROXIES; None if it cannot be known.

    Under `serve` and `run` uvicorn sees to that. By itself it believes every program on its own machine: where PROXIES
    names nobody, an address that stands in X-Forwarded-For may be anybody's invention.
    """
    host = request.client.host if request.client else None
    if host and not request.app.state.settings.proxies:
        claimed = ",".join(request.headers.getlist("X-Forwarded-For"))
        return None if host in claimed else host
    return host
