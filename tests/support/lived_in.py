"""A hospital that has been at work: enrolled, with an approval, a budget that was spent, and messages that left."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w
from report_runs import PRIVATE
from small_trust import NOW, Lead, Member, new_site

from client.custodian.service import Service, listen
from client.custodian.wiring import SOCKET, TOKEN
from client.enrolment import accept, read_welcome_content
from client.governance.approvals import Terms, record
from client.governance.audit import Event
from client.site_folder import SiteFolder
from shared.parcels import Parcel
from shared.plan import parse
from shared.trust.plans import sign_plan
