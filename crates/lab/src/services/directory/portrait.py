# Writes down all that a domain knows of its people, groups and policies, straight from the controller's
# database with Samba's own library: names, SIDs, GUIDs, memberships, and a digest of every password's keys.
# argv: smb.conf. The controllers themselves are left out: a restored domain has another one.
import hashlib
import json
import sys

import ldb
from samba.auth import system_session
from samba.dcerpc import misc, security
from samba.ndr import ndr_unpack
from samba.param import LoadParm
from samba.samdb import SamDB

CONTROLLER = 8192
PLAIN = [
    "sAMAccountName", "displayName", "sn", "department", "title", "mail", "description", "userPrincipalName",
    "userAccountControl", "groupType", "pwdLastSet", "gPCFileSysPath", "versionNumber", "servicePrincipalName",
]
SECRET = ["unicodePwd", "supplementalCredentials"]

lp = LoadParm()
lp.load(sys.argv[1])
db = SamDB(session_info=system_session(), lp=lp)
kinds = "(|(objectClass=user)(objectClass=group)(objectClass=organizationalUnit)(objectClass=groupPolicyContainer))"
found = db.search(
    base=db.domain_dn(), scope=ldb.SCOPE_SUBTREE, expression=kinds,
    attrs=["objectSid", "objectGUID", "member", *PLAIN, *SECRET],
)
portrait = {}
for entry in found:
    if int(str(entry.get("userAccountControl", idx=0) or "0")) & CONTROLLER:
        continue
    facts = {}
    if "objectSid" in entry:
        facts["sid"] = str(ndr_unpack(security.dom_sid, entry["objectSid"][0]))
    facts["guid"] = str(ndr_unpack(misc.GUID, entry["objectGUID"][0]))
    for name in PLAIN:
        if name in entry:
            facts[name] = sorted(str(value) for value in entry[name])
    if "member" in entry:
        facts["member"] = sorted(str(ldb.Dn(db, str(value))) for value in entry["member"])
    # A restore gives the tickets' account new keys on purpose.
    if str(entry.get("sAMAccountName", idx=0)) == "krbtgt":
        facts.pop("pwdLastSet", None)
    else:
        for name in SECRET:
            if name in entry:
                facts[name] = hashlib.sha256(bytes(entry[name][0])).hexdigest()
    portrait[str(entry.dn)] = json.dumps(facts, sort_keys=True, ensure_ascii=False)
json.dump(portrait, sys.stdout, ensure_ascii=False)
