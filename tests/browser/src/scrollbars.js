// SPDX-License-Identifier: Apache-2.0
// The package is CommonJS with both a named and a default export; Grafana uses either.
import * as module from 'scrollbars-commonjs';

const Scrollbars = module.Scrollbars ?? module.default?.Scrollbars ?? module.default?.default ?? module.default;
export { Scrollbars };
export default Scrollbars;
