//! The traits that people expect of a thing that is bytes.

/// Has a type that derefs to `[u8]` compare, order and hash as its bytes do. It compares with slices, arrays, vectors,
/// and everything else that has bytes, on either side.
macro_rules! bytes_like {
    ([$($generics:tt)*] $type:ty) => {
        impl<$($generics)*> AsRef<[u8]> for $type {
            #[inline]
            fn as_ref(&self) -> &[u8] {
                self
            }
        }

        impl<$($generics)*> core::borrow::Borrow<[u8]> for $type {
            #[inline]
            fn borrow(&self) -> &[u8] {
                self
            }
        }

        /// Compares bytes, with whatever has them.
        impl<$($generics)*, Other: AsRef<[u8]> + ?Sized> PartialEq<Other> for $type {
            #[inline]
            fn eq(&self, other: &Other) -> bool {
                **self == *other.as_ref()
            }
        }

        impl<$($generics)*> Eq for $type {}

        /// Orders as the bytes do.
        impl<$($generics)*, Other: AsRef<[u8]> + ?Sized> PartialOrd<Other> for $type {
            #[inline]
            fn partial_cmp(&self, other: &Other) -> Option<core::cmp::Ordering> {
                (**self).partial_cmp(other.as_ref())
            }
        }

        impl<$($generics)*> Ord for $type {
            #[inline]
            fn cmp(&self, other: &Self) -> core::cmp::Ordering {
                (**self).cmp(&**other)
            }
        }

        /// Hashes as the bytes do.
        impl<$($generics)*> core::hash::Hash for $type {
            #[inline]
            fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
                (**self).hash(state);
            }
        }

        impl<$($generics)*> PartialEq<$type> for [u8] {
            fn eq(&self, other: &$type) -> bool {
                *self == **other
            }
        }

        impl<$($generics)*> PartialEq<$type> for &[u8] {
            fn eq(&self, other: &$type) -> bool {
                **self == **other
            }
        }

        impl<$($generics)*, const N: usize> PartialEq<$type> for [u8; N] {
            fn eq(&self, other: &$type) -> bool {
                self[..] == **other
            }
        }

        impl<$($generics)*, const N: usize> PartialEq<$type> for &[u8; N] {
            fn eq(&self, other: &$type) -> bool {
                self[..] == **other
            }
        }

        impl<$($generics)*> PartialEq<$type> for alloc::vec::Vec<u8> {
            fn eq(&self, other: &$type) -> bool {
                self[..] == **other
            }
        }

        impl<'a, $($generics)*> IntoIterator for &'a $type {
            type Item = &'a u8;
            type IntoIter = core::slice::Iter<'a, u8>;

            #[inline]
            fn into_iter(self) -> Self::IntoIter {
                self.iter()
            }
        }
    };
}

pub(crate) use bytes_like;
