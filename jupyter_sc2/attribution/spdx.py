"""Reports as an SPDX 2.3 document, with the notebooks as files and the sources that they match as packages."""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_sc2.attribution import licences
from jupyter_sc2.attribution.report import Report


def document(reports: Sequence[Report], version: str) -> dict[str, Any]:
    """The document as a JSON object; `version` is that of this package, which is named as its creator."""
    files: list[dict[str, Any]] = []
    packages: dict[tuple[str, str], dict[str, Any]] = {}
    relations: list[dict[str, str]] = []
    texts: dict[str, str] = {}
    for number, report in enumerate(reports, 1):
        file = _file(number, report)
        files.append(file)
        relations.append(_relation("SPDXRef-DOCUMENT", "DESCRIBES", file["SPDXID"]))
        for notice in report.notices:
            package = packages.setdefault(
                (notice.source, notice.version),
                _package(len(packages) + 1, notice.source, notice.version, notice.licence),
            )
            for id in licences.ids(notice.licence):
                if id.startswith("LicenseRef-"):
                    texts.setdefault(id, "\n\n".join(text for _, text in notice.texts) or id)
        for cell in report.cells:
            for match in cell.matches:
                for place in match.places:
                    package = packages[place.source, place.version]
                    words = (
                        f"Cell {cell.number}, lines {match.lines[0]} to {match.lines[1]}: {place}"
                    )
                    relations.append(
                        _relation(file["SPDXID"], "OTHER", package["SPDXID"], f"{words}.")
                    )
    result: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "attribution",
        "documentNamespace": f"https://spdx.org/spdxdocs/attribution-{uuid.uuid4()}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "creators": [f"Tool: jupyter-sc2-{version}"],
        },
        "files": files,
        "packages": list(packages.values()),
        "relationships": relations,
    }
    if texts:
        result["hasExtractedLicensingInfos"] = [
            {"licenseId": id, "extractedText": text} for id, text in texts.items()
        ]
    return result


def _file(number: int, report: Report) -> dict[str, Any]:
    path = Path(report.notebook)
    try:
        data = path.read_bytes()
    except OSError:
        data = "\n\n".join(report.sources).encode("utf-8", "replace")
    found = dict.fromkeys(notice.licence for notice in report.notices)
    return {
        "SPDXID": f"SPDXRef-Notebook-{number}",
        "fileName": f"./{path.name}",
        "checksums": [{"algorithm": "SHA1", "checksumValue": hashlib.sha1(data).hexdigest()}],
        "licenseConcluded": licences.UNKNOWN,
        "licenseInfoInFiles": [id for one in found for id in licences.ids(one)] or ["NONE"],
        "copyrightText": licences.UNKNOWN,
    }


def _package(number: int, name: str, version: str, licence: str) -> dict[str, Any]:
    package = {
        "SPDXID": f"SPDXRef-Package-{number}-{re.sub(r'[^A-Za-z0-9.-]', '-', name)}",
        "name": name,
        "downloadLocation": licences.UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": licences.UNKNOWN,
        "licenseDeclared": licence,
        "copyrightText": licences.UNKNOWN,
    }
    return package | ({"versionInfo": version} if version else {})


def _relation(one: str, kind: str, other: str, comment: str = "") -> dict[str, str]:
    relation = {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
    return relation | ({"comment": comment} if comment else {})
