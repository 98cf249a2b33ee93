import Aqua

# The test of tasks that outlive the loading makes a project, for which Pkg needs a registry.
const REGISTRY = any(depot -> isdir(joinpath(depot, "registries")) &&
                              !isempty(readdir(joinpath(depot, "registries"))), DEPOT_PATH)
Aqua.test_all(SONew; persistent_tasks = REGISTRY)
