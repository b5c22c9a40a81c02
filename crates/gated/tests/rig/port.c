/* What a vendor adds to netconfd: the leaf `enabled` of an interface really sets the port's link. For tests.
 * If the file $PORT_SPOIL exists, it takes every change and does nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "procdefs.h"
#include "agt.h"
#include "agt_cb.h"
#include "agt_util.h"
#include "ncx.h"
#include "ncxmod.h"
#include "ncxtypes.h"
#include "status.h"
#include "val.h"

/* Called with the leaf itself, or with the whole interface when a configuration is restored. */
static status_t edit(ses_cb_t *session, rpc_msg_t *message, agt_cbtyp_t phase, op_editop_t operation,
                     val_value_t *now, val_value_t *before) {
    (void)session; (void)message; (void)operation; (void)before;
    if (phase != AGT_CB_COMMIT || now == NULL || access(getenv("PORT_SPOIL"), F_OK) == 0) return NO_ERR;
    val_value_t *leaf = now;
    if (strcmp((const char *)now->name, "enabled") != 0) {
        leaf = val_find_child(now, (const xmlChar *)"ietf-interfaces", (const xmlChar *)"enabled");
    }
    /* A leaf that is not there has its default: on. */
    int up = leaf == NULL || VAL_BOOL(leaf);
    return system(up ? "ip link set port2 up" : "ip link set port2 down") == 0 ? NO_ERR : ERR_NCX_OPERATION_FAILED;
}

status_t y_test_port_init(const xmlChar *name, const xmlChar *revision) {
    ncx_module_t *module;
    (void)name; (void)revision;
    status_t done = ncxmod_load_module((const xmlChar *)"ietf-interfaces", NULL, &agt_get_profile()->agt_savedevQ, &module);
    if (done != NO_ERR) return done;
    done = agt_cb_register_callback((const xmlChar *)"ietf-interfaces", (const xmlChar *)"/interfaces/interface",
                                    NULL, edit);
    if (done != NO_ERR) return done;
    return agt_cb_register_callback((const xmlChar *)"ietf-interfaces",
                                    (const xmlChar *)"/interfaces/interface/enabled", NULL, edit);
}
status_t y_test_port_init2(void) { return NO_ERR; }
void y_test_port_cleanup(void) {}
