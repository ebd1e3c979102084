"""The application is asked without a server."""

from app import app


def test_the_front_page() -> None:
    assert app.test_client().get("/").text == "hello from flask"
