"""A small Flask application; README.md says how to run it in a sandbox."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def index() -> str:
    return "hello from flask"


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=8000)
