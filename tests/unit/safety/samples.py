"""Made-up secrets of the right shapes, put together here so that no scanner takes this file for a leak."""

from __future__ import annotations

import base64
import json
import random
import string

LETTERS_AND_DIGITS = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
LOWER = string.ascii_lowercase + string.digits
HEXADECIMAL = "0123456789abcdef"


def made(source: random.Random, count: int, alphabet: str = LETTERS_AND_DIGITS) -> str:
    return "".join(source.choices(alphabet, k=count))


def jwt(source: random.Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return ".".join((part({"alg": "HS256"}), part({"sub": made(source, 9)}), made(source, 43)))


def private_key(source: random.Random, kind: str = "RSA ", lines: int = 12, newline: str = "\n") -> str:
    body = [made(source, 64) for _ in range(lines)] + [made(source, 14) + "=="]
    dashes = "-" * 5
    return newline.join(
        [f"{dashes}BEGIN {kind}PRIVATE KEY{dashes}", *body, f"{dashes}END {kind}PRIVATE KEY{dashes}"]
    )


def tokens(source: random.Random) -> dict[str, list[tuple[str, str]]]:
    """Return, by kind, pairs of a line and the secret in it."""
    bare = {
        "AWS key": ["AK" + "IA" + made(source, 16, UPPER), "AS" + "IA" + made(source, 16, UPPER)],
        "GitHub token": [
            *(f"gh{sign}_" + made(source, 36) for sign in "pousr"),
            "github" + "_pat_" + made(source, 82),
        ],
        "GitLab token": ["gl" + "pat-" + made(source, 20), "GR" + "1348941" + made(source, 20)],
        "OpenAI key": [
            "s" + "k-" + made(source, 20) + "T3Blbk" + "FJ" + made(source, 20),
            "s" + "k-proj-" + made(source, 60),
        ],
        "Anthropic key": ["s" + "k-ant-api03-" + made(source, 90)],
        "Hugging Face token": ["h" + "f_" + made(source, 34)],
        "Google key": ["AI" + "za" + made(source, 35)],
        "Slack token": ["xo" + "xb-" + "123456789012-" + "123456789012-" + made(source, 24, LOWER)],
        "Stripe key": ["sk" + "_live_" + made(source, 24)],
        "PyPI token": ["pypi-" + "AgEIcHlwaS5vcmc" + made(source, 80)],
        "JWT": [jwt(source)],
        "service token": [
            "SG" + "." + made(source, 22) + "." + made(source, 43),
            "sq0" + "csp-" + made(source, 43),
            "AC" + made(source, 32, HEXADECIMAL),
            made(source, 32, HEXADECIMAL) + "-us" + "12",
            "1234567890" + ":" + made(source, 35),
        ],
    }
    pairs = {kind: [(f"x = {one} # y", one) for one in ones] for kind, ones in bare.items()}
    secret = made(source, 40)
    pairs["AWS key"].append((f"aws_secret_key = '{secret}'", secret))
    token = "np" + "m_" + made(source, 36)
    pairs["npm token"] = [("//registry.npmjs.org/:_auth" + f"Token={token} # mine", token)]
    for prefix, count, alphabet in (("softlayer_", 64, LOWER), ("ibm_cloud_", 44, LETTERS_AND_DIGITS)):
        secret = made(source, count, alphabet)
        pairs["service token"].append((f'{prefix}api_key = "{secret}"', secret))
    secret = made(source, 86) + "=="
    pairs["service token"].append(("Account" + f"Key={secret}", f"{secret}"))
    secret = made(source, 12) + "1"
    pairs["password"] = [
        (f"https://admin:{secret}@db.internal:5432/", secret),
        (f'password = "{secret}"', secret),
        (f'"db_password": "{secret}",', secret),
        (f"PWD={secret}!x", f"{secret}!x"),
        (f"if password == '{secret}':", secret),
    ]
    random_one = made(source, 40)
    pairs["high-entropy string"] = [
        (f"SECRET_TOKEN={random_one}", random_one),
        (f"Authorization: Bearer {random_one}", random_one),
        (f'client_key: "{random_one}"', random_one),
    ]
    return pairs


PERSONAL = {
    "e-mail": [
        ("write to jo.smith+x@mail.company.co.uk.", "jo.smith+x@mail.company.co.uk"),
        ("<a@b.io>", "a@b.io"),
        ("mailto:me@site.org", "me@site.org"),
    ],
    "IP address": [
        ("from 8.8.4.4:53 on", "8.8.4.4"),
        ("http://93.184.215.14/x", "93.184.215.14"),
        ("at 2001:4860:4860::8888.", "2001:4860:4860::8888"),
    ],
    "telephone": [
        ("call +1 650-253-0000 now", "+1 650-253-0000"),
        ("tel:+493012345678", "+493012345678"),
        ("+44 20 7946 0958 2024", "+44 20 7946 0958"),
    ],
}

INNOCENT = [
    "password = getpass('Password: ')",
    'password = "<your password>"',
    "password: ${DB_PASSWORD}",
    "token = self.tokens[3]",
    "def login(user, password=None, secret_key=default_key):",
    "The secret of success: patience and work.",
    'KEY = "some_constant_name"',
    "sha256 = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'",
    'if line == "-----BEGIN RSA ' + 'PRIVATE KEY-----":',
    "-----BEGIN RSA " + "PRIVATE KEY-----\nis the first line of such a file\n",
    "@pytest.mark.parametrize('x', [1])",
    "someone@example.com, you@host.test",
    "git clone git@github.com:owner/name.git",
    "git clone ssh://git@github.com/owner/name",
    "version 1.2.3.4 and v10.1.0.7 and Chrome/96.0.4664.110",
    "127.0.0.1 0.0.0.0 192.168.1.7 10.1.2.3 203.0.113.9 255.255.255.255 224.0.0.251",
    "::1 fe80::1 2001:db8::1 12:30:45 std::vector x[::2]",
    "999.1.1.1 1.2.3 1.2.3.4.5",
    "555-0100, 0171 123456 and 1 + 2 = 3, +1, +12345",
]
