//! Calls that are refused.

/// Asserts that a call is refused with this error.
macro_rules! refused {
    ($call:expr, $error:pat $(if $guard:expr)?) => {
        match $call {
            Err($error) $(if $guard)? => {}
            Err(other) => panic!("{}: refused with {other:?}", stringify!($call)),
            Ok(_) => panic!("{} was not refused", stringify!($call)),
        }
    };
}
