# Gradients in the types of ChainRulesCore, which Zygote and others return. Julia 1.9 and
# newer load this when both packages are loaded.

module SONewChainRulesCoreExt

import SONew
using ChainRulesCore: AbstractThunk, AbstractZero, Tangent, backing, canonicalize, unthunk

SONew.plain(f, ::AbstractZero) = nothing
SONew.plain(f, g::Tangent) = SONew.plain(f, backing(canonicalize(g)))
SONew.plain(f, g::AbstractThunk) = SONew.keep(f, SONew.plain(f, unthunk(g)))

end
