//! Compares the structs with the header that an installed jaxlib ships.

use super::*;
use std::fmt::Write;
use std::process::Command;

/// Run with the header's folder in `SONEW_XLA_INCLUDE`: what
/// `jax.ffi.include_dir()` gives. bindings/python/tests/jax/run does.
#[test]
#[ignore = "needs the header of a jaxlib"]
fn structs_lie_as_in_the_header() {
    let include = std::env::var_os("SONEW_XLA_INCLUDE").expect("SONEW_XLA_INCLUDE is set");
    let mut c = "#include <xla/ffi/api/c_api.h>\n".to_owned();
    let mut holds = |condition: String| {
        writeln!(c, "_Static_assert({condition}, {condition:?});").unwrap();
    };

    macro_rules! structs {
        ($($rust:ident $c:ident { $($field:ident $c_field:ident),* })*) => {$({
            let c = stringify!($c);
            $(
                let (field, at) = (stringify!($c_field), offset_of!($rust, $field));
                holds(format!("offsetof({c}, {field}) == {at}"));
                let size = size_of_field(|s: &$rust| &s.$field);
                holds(format!("sizeof((({c}*)0)->{field}) == {size}"));
            )*
        })*};
    }
    structs! {
        ExtensionBase XLA_FFI_Extension_Base { struct_size struct_size, kind type, next next }
        ApiVersion XLA_FFI_Api_Version {
            struct_size struct_size, extension_start extension_start, major major_version,
            minor minor_version
        }
        Metadata XLA_FFI_Metadata {
            struct_size struct_size, api_version api_version, traits traits
        }
        MetadataExtension XLA_FFI_Metadata_Extension {
            base extension_base, metadata metadata
        }
        ErrorCreateArgs XLA_FFI_Error_Create_Args {
            struct_size struct_size, extension_start extension_start, message message, code errc
        }
        Api XLA_FFI_Api {
            struct_size struct_size, extension_start extension_start, api_version api_version,
            internal_api internal_api, error_create XLA_FFI_Error_Create
        }
        Buffer XLA_FFI_Buffer {
            struct_size struct_size, extension_start extension_start, dtype dtype, data data,
            rank rank, dims dims
        }
        Buffers XLA_FFI_Args {
            struct_size struct_size, extension_start extension_start, size size, types types,
            buffers args
        }
        Buffers XLA_FFI_Rets {
            struct_size struct_size, extension_start extension_start, size size, types types,
            buffers rets
        }
        ByteSpan XLA_FFI_ByteSpan { ptr ptr, len len }
        Scalar XLA_FFI_Scalar { dtype dtype, value value }
        Array XLA_FFI_Array { dtype dtype, size size, data data }
        Attributes XLA_FFI_Attrs {
            struct_size struct_size, extension_start extension_start, size size, types types,
            names names, values attrs
        }
        CallFrame XLA_FFI_CallFrame {
            struct_size struct_size, extension_start extension_start, api api, context ctx,
            stage stage, arguments args, results rets, attributes attrs
        }
    }

    // The sizes that the runtime writes into struct_size.
    for (size, c) in [
        (Metadata::SIZE, "XLA_FFI_Metadata"),
        (Buffer::SIZE, "XLA_FFI_Buffer"),
        (Buffers::SIZE, "XLA_FFI_Args"),
        (Buffers::SIZE, "XLA_FFI_Rets"),
        (Attributes::SIZE, "XLA_FFI_Attrs"),
        (CallFrame::SIZE, "XLA_FFI_CallFrame"),
    ] {
        holds(format!("{c}_STRUCT_SIZE == {size}"));
    }
    holds(format!("XLA_FFI_Api_STRUCT_SIZE >= {}", Api::SIZE));
    let error_size = size_of::<ErrorCreateArgs>() - size_of::<c_int>();
    holds(format!(
        "XLA_FFI_Error_Create_Args_STRUCT_SIZE == {error_size}"
    ));
    for (number, c) in [
        (API_MAJOR, "API_MAJOR"),
        (EXTENSION_METADATA, "Extension_Metadata"),
        (STAGE_EXECUTE, "ExecutionStage_EXECUTE"),
        (INVALID_ARGUMENT, "Error_Code_INVALID_ARGUMENT"),
        (TYPE_BUFFER, "ArgType_BUFFER"),
        (TYPE_BUFFER, "RetType_BUFFER"),
        (ATTRIBUTE_ARRAY, "AttrType_ARRAY"),
        (ATTRIBUTE_SCALAR, "AttrType_SCALAR"),
        (ATTRIBUTE_STRING, "AttrType_STRING"),
        (S32, "DataType_S32"),
        (S64, "DataType_S64"),
        (U32, "DataType_U32"),
        (F16, "DataType_F16"),
        (F32, "DataType_F32"),
        (F64, "DataType_F64"),
        (BF16, "DataType_BF16"),
    ] {
        holds(format!("XLA_FFI_{c} == {number}"));
    }
    holds(format!("XLA_FFI_API_MINOR >= {API_MINOR}"));

    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout.c");
    std::fs::write(&source, c).unwrap();
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(compiler)
        .args(["-std=c11", "-fsyntax-only", "-I"])
        .args([include.as_os_str(), source.as_os_str()])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{errors}");
}

fn size_of_field<S, F>(_: impl Fn(&S) -> &F) -> usize {
    size_of::<F>()
}
