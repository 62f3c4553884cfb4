"""Promise: the stand-in for AWS works on one call at a time, and no client keeps it from the others."""

import socket
import urllib.request
from urllib.parse import urlsplit

import boto3


def test_an_upload_that_stands_still_holds_nobody_up(moto: str) -> None:
    place = urlsplit(moto)
    with socket.create_connection((place.hostname, place.port)) as stalled:
        stalled.sendall(b"PUT /some-bucket/key HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        with urllib.request.urlopen(f"{moto}/moto-api/", timeout=20) as answer:
            assert answer.status == 200


def test_what_is_put_is_there_as_a_whole(moto: str) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=moto, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    s3.create_bucket(Bucket="stand-in")
    body = bytes(range(256)) * 4000
    s3.put_object(Bucket="stand-in", Key="key", Body=body)
    assert s3.get_object(Bucket="stand-in", Key="key")["Body"].read() == body
