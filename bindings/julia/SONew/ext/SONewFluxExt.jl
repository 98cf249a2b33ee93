# Flux.setup for a SONewRule itself. Julia 1.9 and newer load this when both packages are
# loaded.

module SONewFluxExt

import Flux
import SONew

Flux.setup(rule::SONew.SONewRule, model) = Flux.setup(SONew.optimisers_rule(rule), model)

end
