"""Secrets that their form gives away.

The table of forms follows the rules that gitleaks maintains (https://github.com/gitleaks/gitleaks,
config/gitleaks.toml); the names are its rules' where it has one. Forms that it lacks name their own source. The
patterns are this project's: each begins with a fixed text and repeats one class of characters, so that matching is
linear.
"""

import re
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of secret.

    Attributes:
        name: gitleaks' rule where there is one.
        keywords: lower-case texts of which one is in every secret of the kind.
        pattern: what is replaced: the first group, or the whole match where there is none.
        example: one that is found, made up.
    """

    name: str
    keywords: tuple[str, ...]
    pattern: re.Pattern[str]
    example: str


_TAIL = "AbC3dEfGh4JkLmN5pQrStU6vWxYz7aBcDeF8gHiJ"


def _prefixed(name: str, *prefixes: str, body: str = r"[\w\-]{16,512}", example: str = "") -> Kind:
    """Return a kind that is one of `prefixes`, matched by case, and then `body`."""
    start = "|".join(re.escape(prefix) for prefix in prefixes)
    keywords = tuple({prefix.lower() for prefix in prefixes})
    pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{start}){body}")
    return Kind(name, keywords, pattern, example or prefixes[0] + _TAIL)


def _pattern(name: str, keywords: tuple[str, ...], pattern: str, example: str) -> Kind:
    return Kind(name, keywords, re.compile(pattern), example)


_HEX = "0123456789abcdef" * 4
_SCHEME = r"(?:bearer|basic|digest|negotiate|token|apikey|aws4-hmac-sha256)"

KINDS: tuple[Kind, ...] = (
    _prefixed("huggingface-access-token", "hf_", "api_org_", body=r"[A-Za-z0-9]{8,512}"),
    _prefixed("nvidia-api-key", "nvapi-", body=r"[\w\-]{16,512}"),  # https://docs.nvidia.com/nim, "API key"
    _prefixed("github-pat", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", body=r"[A-Za-z0-9]{8,512}"),
    _prefixed("github-fine-grained-pat", "github_pat_"),
    _prefixed("gitlab-pat", "glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-", "glffct-", "glagent-", "glimt-"),
    _prefixed(
        "aws-access-token",
        "AKIA", "ASIA", "ABIA", "ACCA", "AGPA", "AIDA", "AROA", "AIPA", "ANPA", "ANVA",
        body=r"[A-Z0-9]{16}(?![A-Za-z0-9])",
        example="AKIA" + "Z7QW3ERT5YUI2OPA",
    ),
    _prefixed("gcp-api-key", "AIza", body=r"[\w\-]{30,60}"),
    _prefixed("gcp-oauth-token", "ya29.", "GOCSPX-"),
    _prefixed("slack-token", "xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxo-", "xoxe.xoxp-", "xapp-",
              body=r"[\w\-]{8,512}", example="xoxb-" + "123456789012-" + _TAIL),
    _pattern("slack-webhook-url", ("hooks.slack.com",),
             r"hooks\.slack\.com/(?:services|workflows|triggers)/([\w/+\-]{8,256})",
             "https://hooks.slack.com/services/T0000/B0000/" + _TAIL),
    _prefixed("openai-api-key", "sk-", body=r"[\w\-]{8,512}"),  # also Anthropic's, DeepSeek's, OpenRouter's
    _prefixed("stripe-access-token", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "sk_prod_", "rk_prod_", "whsec_"),
    _prefixed("groq-api-key", "gsk_"),  # https://console.groq.com/docs
    _prefixed("replicate-api-token", "r8_"),  # https://replicate.com/docs/reference/http
    _prefixed("perplexity-api-key", "pplx-"),
    _prefixed("xai-api-key", "xai-", body=r"[A-Za-z0-9]{40,200}", example="xai-" + _TAIL + _TAIL),
    _prefixed("fireworks-api-key", "fw_", body=r"[A-Za-z0-9]{20,64}"),
    _prefixed("wandb-api-key", "wandb_v1_"),  # older ones are plain hexadecimal digits: found by their variable
    _prefixed("npm-access-token", "npm_", body=r"[A-Za-z0-9]{30,64}"),
    _prefixed("pypi-upload-token", "pypi-AgE"),
    _prefixed("rubygems-api-token", "rubygems_"),
    _prefixed("docker-pat", "dckr_pat_", "dckr_oat_"),  # https://docs.docker.com/security/access-tokens
    _prefixed("digitalocean-pat", "dop_v1_", "doo_v1_", "dor_v1_"),
    _prefixed("databricks-api-token", "dapi", body=r"[a-f0-9]{32}(?:-\d{1,4})?", example="dapi" + _HEX[:32]),
    _prefixed("vault-service-token", "hvs.", "hvb.", "hvr."),
    _prefixed("doppler-api-token", "dp.pt.", "dp.st.", "dp.ct."),
    _prefixed("dynatrace-api-token", "dt0c01.", body=r"[\w.\-]{24,160}"),
    _prefixed("atlassian-api-token", "ATATT3", body=r"[\w=\-]{16,512}"),
    _prefixed("linear-api-key", "lin_api_"),
    _prefixed("notion-api-token", "ntn_", body=r"[A-Za-z0-9]{30,64}"),
    _prefixed("grafana-service-account-token", "glsa_", "glc_"),
    _prefixed("new-relic-user-api-key", "NRAK-", "NRII-"),
    _prefixed("sentry-token", "sntrys_", "sntryu_"),
    _prefixed("sendgrid-api-token", "SG.", body=r"[\w\-]{16,64}\.[\w\-]{16,64}", example=f"SG.{_TAIL[:22]}.{_TAIL}"),
    _prefixed("shopify-token", "shpat_", "shpca_", "shppa_", "shpss_"),
    _prefixed("postman-api-token", "PMAK-"),
    _prefixed("pulumi-api-token", "pul-", body=r"[a-f0-9]{40}", example="pul-" + _HEX[:40]),
    _prefixed("planetscale-token", "pscale_tkn_", "pscale_pw_", "pscale_oauth_"),
    _prefixed("flyio-access-token", "fo1_", "fm1a_", "fm1r_", "fm2_", body=r"[\w+/=\-]{16,1024}"),
    _prefixed("tailscale-key", "tskey-"),  # https://tailscale.com/kb/1085/auth-keys
    _prefixed("buildkite-token", "bkua_"),
    _prefixed("heroku-api-key-v2", "HRKU-"),
    _prefixed("1password-service-account-token", "ops_eyJ"),
    _prefixed("age-secret-key", "AGE-SECRET-KEY-1"),
    _prefixed("openshift-user-token", "sha256~"),
    _prefixed("alibaba-access-key-id", "LTAI", body=r"[A-Za-z0-9]{12,30}(?![A-Za-z0-9])", example="LTAI" + _TAIL[:20]),
    _prefixed("tencent-secret-id", "AKID", body=r"[A-Za-z0-9]{13,40}(?![A-Za-z0-9])", example="AKID" + _TAIL[:32]),
    _prefixed("jfrog-api-key", "AKCp", "cmVmdGtu", body=r"[A-Za-z0-9]{40,200}", example="AKCp" + _TAIL * 2),
    _pattern(
        "azure-ad-client-secret", ("q~",), r"(?<![\w~.])[\w~.]{3}\dQ~[\w~.\-]{31,34}", "abc8Q~" + _TAIL[:34]
    ),
    _pattern(
        "telegram-bot-api-token", (":a",), r"(?<![\w:])\d{5,16}:A[\w\-]{34}(?![\w\-])", "123456789:A" + _TAIL[:34]
    ),
    _pattern(
        "discord-webhook-url", ("/api/webhooks/",), r"/api/webhooks/(\d{5,24}/[\w\-]{16,128})",
        "https://discord.com/api/webhooks/123456789012345678/" + _TAIL,
    ),
    _pattern(
        "jwt", (".ey",), r"(?<![\w\-])ey[\w\-]{12,8192}\.ey[\w\-]{8,16384}(?:\.[\w\-]{0,8192})?",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    ),
    _pattern(
        "bearer-token", ("bearer",),
        r"(?i)\bbearer[ +](?=[\w.~+/\-]{0,64}\d|[\w.~+/\-]{16})([\w.~+/\-]{6,8192}=*)",
        "Bearer " + _TAIL,
    ),
    _pattern(
        "http-authorization", ("authorization",),
        rf"(?i)authorization['\"\\]{{0,4}}\s{{0,3}}[:=,]\s{{0,3}}(?:b?['\"\\]{{1,4}})?(?:{_SCHEME}\s{{1,3}}|(?!{_SCHEME}\b))"
        r"((?!<secret>|\$)[^\s'\"\\,]{3,8192})",
        "Authorization: Basic dXNlcjpwYXNz",
    ),
    _pattern(
        "http-cookie", ("cookie",),
        r"(?i)\bcookie['\"\\]{0,4}\s{0,3}[:=,]\s{0,3}(?:b?['\"\\]{1,4})?((?!<secret>)[\w.\-]{1,64}=[^'\"\\\r\n]*)",
        "Set-Cookie: session=" + _TAIL,
    ),
    _pattern(
        "private-key", ("private key",),
        r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:(?!-----END)[\s\S])*(?:-----END[ A-Z0-9]{0,60}-----)?",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    ),
    _pattern(  # https://docs.aws.amazon.com/AmazonS3, "Signature Version 4"; Google's and Azure's alike
        "signed-url",
        ("signature=", "sig=", "credential=", "token=", "accesskeyid=", "accessid=", "key=", "auth=",
         "policy=", "key-pair-id="),
        r"(?i)[?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|googleaccessid"
        r"|access_token|auth|api_?key|key|token|policy|key-pair-id)=((?!<secret>)[^\s&'\"<>\\]{6,8192})",
        "https://b.s3.amazonaws.com/w.safetensors?X-Amz-Expires=9&X-Amz-Signature=" + _HEX,
    ),
    _pattern(
        "url-credentials", ("://",), r"://([^\s/:@'\"?#<>]{0,256}:[^\s/@'\"?#<>]{1,512})@", "https://me:p4ssw0rd@host/x"
    ),
    _pattern(
        "url-user", ("://",), r"https?://((?!<secret>@)[^\s/:@'\"?#]{8,256})@", "https://oauth2abcdefgh1234@git.example.org/x"
    ),
    _pattern("netrc", ("password ",), r"(?i)\blogin\s{1,4}\S{1,256}\s{1,4}password\s{1,4}(?!<secret>)([^\s'\"]{1,512})",
             "machine example.org login marta password hunter2hunter2"),
    _pattern("curl-user", ("curl",),
             r"\bcurl\b[^\r\n|;]{0,400}?\s(?:-u|--user)[ =]['\"]?([^\s'\":]{1,256}:[^\s'\"]{1,256})",
             "curl -s -u marta:hunter2hunter2 http://localhost:8000/v1/models"),
)  # fmt: skip
