//! A Kerberos token for an HTTP proxy (RFC 4559), from the system's own GSS-API library (RFC 2743, RFC 2744).
//!
//! The library is loaded when the first token is asked for, so that nothing of Portcullis needs it to start or
//! to be built. Only what one token takes is bound.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// MIT's library, and Heimdal's.
const LIBRARIES: [&CStr; 2] = [c"libgssapi_krb5.so.2", c"libgssapi.so.3"];
/// A service by the name of its host, as in `HTTP@proxy.example` (RFC 2744 section 4).
const HOSTBASED_SERVICE: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x01\x04";
/// The mechanism that negotiates the mechanism (RFC 4178).
const SPNEGO: &[u8] = b"\x2b\x06\x01\x05\x05\x02";
/// The bits of a status that say that there was an error (RFC 2744 section 3.9.1).
const ERROR_BITS: u32 = 0xffff_0000;
/// What kind of status is to be told of: the library's, the mechanism's.
const STATUS_KINDS: [c_int; 2] = [1, 2];
/// Longest token that is passed on, in bytes: a request's head has room for it in Base64.
const MAX_TOKEN_BYTES: usize = 32 * 1024;

#[repr(C)]
struct Buffer {
    length: usize,
    value: *mut c_void,
}

#[repr(C)]
struct Oid {
    length: u32,
    elements: *const c_void,
}

type Handle = *mut c_void;
type ImportName = unsafe extern "C" fn(*mut u32, *const Buffer, *const Oid, *mut Handle) -> u32;
type InitContext = unsafe extern "C" fn(
    *mut u32,
    Handle,
    *mut Handle,
    Handle,
    *const Oid,
    u32,
    u32,
    *const c_void,
    *const Buffer,
    *mut *const Oid,
    *mut Buffer,
    *mut u32,
    *mut u32,
) -> u32;
type ReleaseBuffer = unsafe extern "C" fn(*mut u32, *mut Buffer) -> u32;
type ReleaseName = unsafe extern "C" fn(*mut u32, *mut Handle) -> u32;
type DeleteContext = unsafe extern "C" fn(*mut u32, *mut Handle, *mut Buffer) -> u32;
type DisplayStatus =
    unsafe extern "C" fn(*mut u32, u32, c_int, *const Oid, *mut u32, *mut Buffer) -> u32;

/// The functions of the library, which stays loaded.
struct Library {
    import_name: ImportName,
    init_context: InitContext,
    release_buffer: ReleaseBuffer,
    release_name: ReleaseName,
    delete_context: DeleteContext,
    display_status: DisplayStatus,
}

/// The first token for the HTTP service of a host, with the ticket of this process's caller. May wait for the
/// realm's servers.
///
/// # Errors
/// What is missing, in the library's own words.
pub fn http_token(host: &str) -> Result<Vec<u8>, String> {
    let library = Library::load()?;
    let service = format!("HTTP@{host}");
    let service = Buffer {
        length: service.len(),
        value: service.as_ptr().cast_mut().cast(),
    };
    let kind = oid(HOSTBASED_SERVICE);
    let (mut minor, mut name) = (0, ptr::null_mut());
    // SAFETY: all pointers are to values that live until the call returns; the library copies what it keeps.
    let status = unsafe { (library.import_name)(&mut minor, &service, &kind, &mut name) };
    if status & ERROR_BITS != 0 {
        return Err(library.describe(status, minor));
    }
    let token = library.first_token(name);
    // SAFETY: `name` was made by the library, and is not used any more.
    unsafe { (library.release_name)(&mut minor, &mut name) };
    token
}

const fn oid(bytes: &'static [u8]) -> Oid {
    Oid {
        length: bytes.len() as u32,
        elements: bytes.as_ptr().cast(),
    }
}

/// A function of a loaded library.
///
/// # Safety
/// `F` is the function's own type, and the library stays loaded.
unsafe fn function<F: Copy>(library: *mut c_void, name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the name ends in NUL, and the handle is one of `dlopen`.
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    // SAFETY: a pointer to a function, by the caller's word of the type `F`.
    (!found.is_null()).then(|| unsafe { std::mem::transmute_copy(&found) })
}

impl Library {
    fn load() -> Result<Library, String> {
        let open = |name: &&CStr| {
            // SAFETY: the name ends in NUL. What the library does as it is loaded concerns nobody here.
            let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
            (!library.is_null()).then_some(library)
        };
        let Some(library) = LIBRARIES.iter().find_map(open) else {
            return Err("the system has no GSS-API library (libgssapi_krb5.so.2)".to_owned());
        };
        // SAFETY: these are their types (RFC 2744 section 5), and nobody closes the library.
        let found = unsafe {
            (|| {
                Some(Library {
                    import_name: function(library, c"gss_import_name")?,
                    init_context: function(library, c"gss_init_sec_context")?,
                    release_buffer: function(library, c"gss_release_buffer")?,
                    release_name: function(library, c"gss_release_name")?,
                    delete_context: function(library, c"gss_delete_sec_context")?,
                    display_status: function(library, c"gss_display_status")?,
                })
            })()
        };
        found.ok_or_else(|| "the system's GSS-API library lacks a function".to_owned())
    }

    fn first_token(&self, name: Handle) -> Result<Vec<u8>, String> {
        let mechanism = oid(SPNEGO);
        let (mut minor, mut context) = (0, ptr::null_mut());
        let mut token = Buffer {
            length: 0,
            value: ptr::null_mut(),
        };
        // SAFETY: `name` is the library's, all else points to values that live until the call returns, and
        // what may be null is where it is not wanted (RFC 2744 section 5.19).
        let status = unsafe {
            (self.init_context)(
                &mut minor,
                ptr::null_mut(),
                &mut context,
                name,
                &mechanism,
                0,
                0,
                ptr::null(),
                ptr::null(),
                ptr::null_mut(),
                &mut token,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        let result = if status & ERROR_BITS != 0 {
            Err(self.describe(status, minor))
        } else {
            match self.take(&mut token) {
                token if token.is_empty() => Err("the GSS-API library made no token".to_owned()),
                token if token.len() > MAX_TOKEN_BYTES => {
                    Err("the Kerberos token is longer than 32 KiB".to_owned())
                }
                token => Ok(token),
            }
        };
        let mut ignored = 0;
        // SAFETY: `context` is the library's or null, and is not used any more; no token is wanted.
        unsafe { (self.delete_context)(&mut ignored, &mut context, ptr::null_mut()) };
        result
    }

    /// The bytes of a buffer of the library's, which is given back.
    fn take(&self, buffer: &mut Buffer) -> Vec<u8> {
        let bytes = match buffer.value.is_null() {
            true => Vec::new(),
            // SAFETY: the library has written so many bytes there, and changes none of them.
            false => unsafe {
                std::slice::from_raw_parts(buffer.value.cast::<u8>(), buffer.length).to_vec()
            },
        };
        let mut minor = 0;
        // SAFETY: the buffer is the library's own, and nothing points into it any more.
        unsafe { (self.release_buffer)(&mut minor, buffer) };
        bytes
    }

    /// A status in the library's words: the first of its own, and the first of the mechanism's.
    fn describe(&self, major: u32, minor: u32) -> String {
        let mechanism = oid(SPNEGO);
        let words = [major, minor].into_iter().zip(STATUS_KINDS);
        let words = words.filter_map(|(status, kind)| {
            let (mut ignored, mut more) = (0, 0);
            let mut text = Buffer {
                length: 0,
                value: ptr::null_mut(),
            };
            // SAFETY: all pointers are to values that live until the call returns.
            let told = unsafe {
                (self.display_status)(&mut ignored, status, kind, &mechanism, &mut more, &mut text)
            };
            let text = self.take(&mut text);
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            (told & ERROR_BITS == 0 && !text.is_empty()).then_some(text)
        });
        match words.collect::<Vec<_>>().join(": ") {
            words if words.is_empty() => format!("GSS-API failed with {major:#x}, {minor}"),
            words => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_ticket_the_library_says_what_is_missing() {
        let Ok(_) = Library::load() else {
            let why = http_token("proxy.example").unwrap_err();
            assert!(why.contains("no GSS-API library"), "{why}");
            return;
        };
        let why = http_token("proxy.invalid").unwrap_err();
        assert!(
            !why.is_empty() && !why.starts_with("GSS-API failed"),
            "{why}"
        );
    }
}
