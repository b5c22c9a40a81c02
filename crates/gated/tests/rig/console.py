# The command line of a small switch, for tests: arguments are its folder, dialect, host name and port.
import os, subprocess, sys, termios, tty
folder, dialect, name, port = sys.argv[1:5]
other = port[:-1] + "6"
def read(file, default=""):
    try: return open(os.path.join(folder, file)).read().strip()
    except OSError: return default
def write(file, text):
    open(os.path.join(folder, file), "w").write(text)
def spoil(): return read("spoil")
def link(): return "LOWER_UP" in subprocess.run(["ip", "-o", "link", "show", "port2"], capture_output=True, text=True).stdout
def apply(state):
    # It never says "shut" before it is.
    if state == "up": write("running", state)
    if spoil() != "lies": subprocess.run(["ip", "link", "set", "port2", state], check=True)
    write("running", state)
def out(text): os.write(1, text.replace("\n", "\r\n").encode())
def line():
    text = b""
    while True:
        c = os.read(0, 1)
        if not c: sys.exit()
        if c in b"\r\n": break
        text += c
        if not (spoil() == "cuts its echo" and len(text) > 4): os.write(1, c)
    out("\n")
    return text.decode()
tty.setraw(0)
privileged, mode = False, ""
out("\n*** authorised use only ***\n")
if spoil() == "hangs":
    while os.read(0, 1): pass
def status():
    up, on = read("running") == "up", link()
    if spoil() == "stale": up = on = False
    word = "connected" if up and on else "notconnect" if up else "disabled"
    if spoil() == "err-disabled": word = "err-disabled"
    shown = read("description", "kuramori-vault")[:18]
    alias = "Gi1/0/50" if dialect == "ios" else "port1.0.50"
    rows = [("Port", "Name", "Status", "Vlan", "Duplex", "Speed Type"), (port, shown, word, "10", "a-full", "a-1000 1000BaseTX"), (alias, "disabled", "connected", "10", "a-full", "a-1000")]
    if spoil() == "renumbered": rows.pop(1)
    return "".join("%-10s%-19s%-13s%-11s%-8s%s\n" % row for row in rows)
def long():
    up, on = read("running") == "up", link()
    if spoil() == "lies": on = up
    if dialect == "ios":
        head = "GigabitEthernet" + port.lstrip("Gi")
        if not up: return head + " is administratively down, line protocol is down (disabled)\n  Hardware is Gigabit Ethernet\n"
        return head + " is %s, line protocol is %s\n  Hardware is Gigabit Ethernet\n" % (("up", "up (connected)") if on else ("down", "down (notconnect)"))
    return "Interface %s\n  Link is %s, administrative state is %s\n  Hardware is Ethernet\n" % (port, "UP" if up and on else "DOWN", "UP" if up else "DOWN")
while True:
    shown = "other" if spoil() == "is another" else name
    out(shown + (mode or ("#" if privileged else ">")) + ("" if dialect == "ios" else " "))
    said = line()
    words = said.split()
    if spoil() == "drops" and words[:1] == ["interface"]: sys.exit()
    if not words: continue
    show = words[:2] in (["show", "interface"], ["show", "interfaces"])
    if mode:
        if words == ["end"]: mode = ""
        elif words[0] == "interface" and words[1:] == [port]: mode = "(config-if)#"
        elif mode == "(config-if)#" and words in (["shutdown"], ["no", "shutdown"]):
            if spoil() == "does nothing": continue
            apply("down" if words == ["shutdown"] else "up")
        else: out("%% Invalid input detected at '^' marker.\n")
    elif words == ["exit"]: sys.exit()
    elif words == ["enable"]:
        if spoil() != "refuses": privileged = True
        else: out("% Access denied\n")
    elif words == ["terminal", "length", "0"]: pass
    elif words == ["configure", "terminal"] and privileged: mode = "(config)#"
    elif show and words[2:] == [port, "status"]: out(status())
    elif show and words[2:] == [port]: out(long())
    else: out("% Invalid input detected at '^' marker.\n")
