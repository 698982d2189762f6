"""The local EC2's answers where moto's pass something over, and where no body takes part."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from samples import baked, machine

from bakehouse.accounts import Account
from bakehouse.errors import CloudError

pytestmark = pytest.mark.local

NOWHERE = "ami-0123456789abcdef0"


def sizes(account: Account, operation: str, key: str, **arguments: Any) -> list[int]:
    """Return how many things each page of an answer holds, seven asked for."""
    method = getattr(account.ec2, operation)
    found: list[int] = []
    token: dict[str, str] = {}
    while True:
        answer = method(MaxResults=7, **arguments, **token)
        found.append(len(answer[key]))
        if not answer.get("NextToken"):
            return found
        token = {"NextToken": answer["NextToken"]}


def test_pages(account: Account) -> None:
    """Images, snapshots, launch templates and their versions come in pages, and none is left out."""
    image = baked(account)
    for number in range(17):
        baked(account)
        account.ec2.create_launch_template(LaunchTemplateName=f"web{number}", LaunchTemplateData={"ImageId": image})
        account.ec2.create_launch_template_version(LaunchTemplateName="web0", LaunchTemplateData={"ImageId": image})

    pages = [7, 7, 4]
    assert pages == sizes(account, "describe_images", "Images", Owners=["self"])
    ours = [{"Name": "tag-key", "Values": ["bakehouse:recipe"]}]
    assert pages == sizes(account, "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=ours)
    assert [7, 7, 3] == sizes(account, "describe_launch_templates", "LaunchTemplates")
    versions = "describe_launch_template_versions", "LaunchTemplateVersions"
    assert pages == sizes(account, *versions, LaunchTemplateName="web0")
    assert 17 == len(list(account.ec2.pages("describe_launch_templates", "LaunchTemplates")))
    assert 18 == len(list(account.ec2.pages(*versions, LaunchTemplateName="web0")))


def test_deprecation(account: Account) -> None:
    """An image is deprecated from a minute on, which is not in the past, until it is so no more."""
    image = baked(account)
    soon = datetime(2040, 1, 2, 3, 4, 5, tzinfo=UTC)

    def told() -> Any:
        return account.ec2.describe_images(ImageIds=[image])["Images"][0].get("DeprecationTime")

    account.ec2.enable_image_deprecation(ImageId=image, DeprecateAt=soon)
    assert "2040-01-02T03:04:00.000Z" == told()
    account.ec2.disable_image_deprecation(ImageId=image)
    assert told() is None
    with pytest.raises(CloudError, match="InvalidParameterValue"):
        account.ec2.enable_image_deprecation(ImageId=image, DeprecateAt=datetime.now(UTC) - timedelta(minutes=1))
    account.ec2.deregister_image(ImageId=image)
    for gone in (NOWHERE, image):
        with pytest.raises(CloudError, match="InvalidAMIID"):
            account.ec2.enable_image_deprecation(ImageId=gone, DeprecateAt=soon)


def test_an_interface_that_a_machine_has(account: Account) -> None:
    """It stays until its machine goes; one that is free may be deleted."""
    machine(account, baked(account))
    [held] = account.ec2.describe_network_interfaces()["NetworkInterfaces"]
    free = account.ec2.create_network_interface(SubnetId=held["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    with pytest.raises(CloudError, match=r"is currently in use\. \(InvalidParameterValue\)"):
        account.ec2.delete_network_interface(NetworkInterfaceId=held["NetworkInterfaceId"])
    account.ec2.delete_network_interface(NetworkInterfaceId=free)
    with pytest.raises(CloudError, match=r"InvalidNetworkInterfaceID\.NotFound"):
        account.ec2.delete_network_interface(NetworkInterfaceId=free)


def test_a_parameter_of_an_image(account: Account) -> None:
    """Of an image that isn't there no parameter comes, and one that is there stays as it is."""
    image, another = baked(account), baked(account)

    def put(name: str, value: str, **more: Any) -> int:
        return int(
            account.ssm.put_parameter(Name=name, Value=value, Type="String", DataType="aws:ec2:image", **more)[
                "Version"
            ]
        )

    assert 1 == put("/first", NOWHERE)
    with pytest.raises(CloudError, match="ParameterNotFound"):
        account.ssm.get_parameter(Name="/first")
    assert [1, 2, 2] == [put("/second", value, Overwrite=True) for value in (image, NOWHERE, another)]
    assert another == account.ssm.get_parameter(Name="/second")["Parameter"]["Value"]
    with pytest.raises(CloudError, match="ParameterAlreadyExists"):
        put("/second", NOWHERE)


def test_the_metadata_defaults(account: Account) -> None:
    """The account's defaults are read back, can be taken back, and have EC2's words alone."""

    def told() -> Any:
        return account.ec2.get_instance_metadata_defaults()["AccountLevel"]

    assert {"ManagedBy": "account"} == told()
    account.ec2.modify_instance_metadata_defaults(HttpTokens="required", HttpTokensEnforced="enabled")
    assert {"ManagedBy": "account", "HttpTokens": "required", "HttpTokensEnforced": "enabled"} == told()
    account.ec2.modify_instance_metadata_defaults(HttpTokens="no-preference")
    assert {"ManagedBy": "account", "HttpTokensEnforced": "enabled"} == told()
    with pytest.raises(CloudError, match="InvalidParameterValue"):
        account.ec2.modify_instance_metadata_defaults(HttpTokensEnforced="perhaps")
