/* Wrong on purpose: a call that it refused changes its later scores. */
#include <string.h>

#include "ptq/plugin.h"

static int refused; /* calls so far */

static ptq_status score(void* method, const ptq_call* call, const ptq_prune_groups* groups,
                        double* score) {
  (void)method;
  if (!groups->influence) {
    ++refused;
    return call->fail(call, PTQ_INVALID, "the influence of the layers was not measured");
  }
  for (int64_t g = 0; g < groups->groups; ++g)
    score[g] = groups->influence[groups->layer[g]] + (double)(g + 1) * (refused + 1);
  return PTQ_OK;
}
static const ptq_prune prune = {sizeof(ptq_prune),
                                PTQ_PRUNE_INFLUENCE,
                                0.2,
                                0,
                                1,
                                PTQ_PRUNE_GROUPS,
                                1,
                                1,
                                16,
                                0,
                                NULL,
                                NULL,
                                score};

static int instance; /* the method has nothing to remember */
static ptq_status create(const ptq_call* call, const char* options_json, void** method) {
  (void)call, (void)options_json;
  *method = &instance;
  return PTQ_OK;
}
static void destroy(void* method, const ptq_call* call) { (void)method, (void)call; }
static const void* get(void* method, const char* id) {
  (void)method;
  return strcmp(id, PTQ_PRUNE_1) == 0 ? &prune : NULL;
}

static const ptq_method method = {
    sizeof(ptq_method), 0,  PTQ_CAN_PRUNE, 0,      "bad_spoiled", "1.0.0",
    "wrong on purpose", "", NULL,          create, destroy,       get};
static const ptq_method* const methods[] = {&method};
const ptq_plugin ptq_plugin_v1 = {"PTQPLUG",
                                  sizeof(ptq_plugin),
                                  PTQ_ABI_MAJOR,
                                  PTQ_ABI_MINOR,
                                  1,
                                  methods,
                                  "bad_spoiled",
                                  "Apache-2.0",
                                  ""};
