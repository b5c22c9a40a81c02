# Fills a new domain with staff, by Samba's own database layer, in one transaction.
# argv: smb.conf; standard input: JSON with people, teams, accounts.
import json
import sys

from samba.auth import system_session
from samba.param import LoadParm
from samba.samdb import SamDB

GLOBAL_SECURITY_GROUP = "-2147483646"

lp = LoadParm()
lp.load(sys.argv[1])
db = SamDB(session_info=system_session(), lp=lp)
what = json.load(sys.stdin)
base = db.domain_dn()
unit = "OU=職員"
place = {}
db.transaction_start()
try:
    db.set_maxPwdAge(0)
    # The lab's passwords are long and random, in small letters.
    db.set_pwdProperties(int(str(db.get_pwdProperties())) & ~1)
    db.add({"dn": f"{unit},{base}", "objectClass": "organizationalUnit"})
    for department in what["departments"]:
        db.add({"dn": f"OU={department},{unit},{base}", "objectClass": "organizationalUnit"})
    for one in what["people"]:
        within = f"OU={one['department']},{unit}"
        place[one["login"]] = f"CN={one['login']},{within},{base}"
        db.newuser(
            one["login"], one["password"], useusernameascn=True, userou=within, surname=one["name"],
            department=one["department"], jobtitle=one["title"],
            mailaddress=f"{one['login']}@hospital.example",
        )
    for one in what["accounts"]:
        db.newuser(one["login"], one["password"], useusernameascn=True, description=one["purpose"])
    for group, members in what["groups"].items():
        message = {
            "dn": f"CN={group},{unit},{base}", "objectClass": "group", "sAMAccountName": group,
            "groupType": GLOBAL_SECURITY_GROUP,
        }
        if members:
            message["member"] = [place[member] for member in members]
        db.add(message)
except BaseException:
    db.transaction_cancel()
    raise
db.transaction_commit()
