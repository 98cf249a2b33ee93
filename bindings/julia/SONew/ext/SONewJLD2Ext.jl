# JLD2 would write an optimizer without its state, which the library holds. Julia 1.9 and
# newer load this when both packages are loaded.

module SONewJLD2Ext

import JLD2
import SONew

JLD2.writeas(::Type{T}) where {T<:SONew.Owner} = throw(ArgumentError(
    "a $T cannot be saved by JLD2: $(SONew.INSTEAD)"))

end
