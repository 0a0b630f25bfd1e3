"""What a wheel carries besides the library: data and notebooks. An editable install uses those of the checkout."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "standard":
            build_data["force_include"] |= {"data": "kitlib/_data", "notebooks": "kitlib/_notebooks"}
