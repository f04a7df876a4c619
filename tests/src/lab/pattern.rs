//! Bytes that can be told from any others: what large transfers carry, and their checksum.

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How much is made at a time, in bytes.
const CHUNK: usize = 64 * 1024;

/// An endless sequence of bytes that its seed alone decides (xorshift64*).
#[derive(Clone, Debug)]
pub struct Pattern(u64);

impl Pattern {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed | 1 << 63)
    }

    /// Writes its next `length` bytes and answers their checksum (CRC-32).
    pub async fn write(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        mut length: u64,
    ) -> Result<u32> {
        let mut chunk = vec![0; CHUNK];
        let mut checksum = crc32fast::Hasher::new();
        while length > 0 {
            self.fill(&mut chunk);
            let part = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
            checksum.update(&chunk[..part]);
            to.write_all(&chunk[..part]).await?;
            length -= u64::try_from(part)?;
        }
        to.flush().await?;
        Ok(checksum.finalize())
    }

    /// Reads `length` bytes and answers their checksum.
    pub async fn checksum_read(
        from: &mut (impl AsyncRead + Unpin),
        mut length: u64,
    ) -> Result<u32> {
        let mut chunk = vec![0; CHUNK];
        let mut checksum = crc32fast::Hasher::new();
        while length > 0 {
            let part = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
            let read = from.read(&mut chunk[..part]).await?;
            anyhow::ensure!(read > 0, "closed {length} bytes before the end");
            checksum.update(&chunk[..read]);
            length -= u64::try_from(read)?;
        }
        Ok(checksum.finalize())
    }

    fn fill(&mut self, chunk: &mut [u8]) {
        for word in chunk.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let bytes = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_written_is_told_from_what_was_not() {
        let mut bytes = Vec::new();
        let length = 200_001;
        let written = Pattern::new(7).write(&mut bytes, length).await.expect("memory");
        let read = Pattern::checksum_read(&mut bytes.as_slice(), length).await.expect("memory");
        assert_eq!(read, written);
        bytes[100_000] ^= 1;
        let read = Pattern::checksum_read(&mut bytes.as_slice(), length).await.expect("memory");
        assert_ne!(read, written);
        Pattern::checksum_read(&mut &bytes[1..], length).await.expect_err("one byte is missing");
    }
}
