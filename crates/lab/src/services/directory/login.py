# Logs a person of the staff in over the network, by Kerberos, and lists all accounts over LDAP.
# argv: the controller's name, the login; standard input: the password. Writes how many accounts there are.
import sys

import ldb
from samba.credentials import MUST_USE_KERBEROS, Credentials
from samba.param import LoadParm
from samba.samdb import SamDB

lp = LoadParm()
lp.load("/dev/null")
lp.set("realm", sys.argv[3])
lp.set("workgroup", sys.argv[4])
creds = Credentials()
creds.guess(lp)
creds.set_username(sys.argv[2])
creds.set_password(sys.stdin.read())
creds.set_domain(sys.argv[4])
creds.set_realm(sys.argv[3])
creds.set_kerberos_state(MUST_USE_KERBEROS)
db = SamDB(url="ldap://" + sys.argv[1], credentials=creds, lp=lp)
people = "(&(objectCategory=person)(objectClass=user))"
found = db.search(base=db.domain_dn(), scope=ldb.SCOPE_SUBTREE, expression=people, attrs=["sAMAccountName"])
print(len(found))
