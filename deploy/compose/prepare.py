"""Makes the buckets and Kinesis streams of a Sluice config on the AWS stand-in: prepare.py CONFIG.

Run by the service `prepare` of docker-compose.yml. Sluice itself never makes a bucket or a stream: they are the
customer's. What exists already is left as it is.
"""

import sys
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import ClientError


def session(sink: dict[str, Any]) -> boto3.Session:
    """The region and credentials of a sink's config."""
    return boto3.Session(
        region_name=sink["region"],
        aws_access_key_id=sink["access_key_id"],
        aws_secret_access_key=sink["secret_access_key"],
    )


def main(path: Path) -> None:
    for stream in yaml.safe_load(path.read_text())["streams"].values():
        try:
            if sink := stream.get("s3"):
                session(sink).client("s3", endpoint_url=sink["endpoint_url"]).create_bucket(Bucket=sink["bucket"])
            elif sink := stream.get("kinesis"):
                kinesis = session(sink).client("kinesis", endpoint_url=sink["endpoint_url"])
                kinesis.create_stream(StreamName=sink["stream"], ShardCount=2)
        except ClientError as problem:
            if problem.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "ResourceInUseException"):
                raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
